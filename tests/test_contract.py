"""The public surface, frozen: a change here is deliberate and goes into CHANGELOG.md."""

from mm_balance import names
from mm_balance.commands import COMMANDS
from mm_balance.config import options, repair_options, reproduction_options, study_options

COMMON = """dataset data_dir preset modalities visual_difficulty train_fraction protocol recipe clip_seconds audio_fit
corruption corruption_kind corruption_modality allow_outside label_separator
resampler audio_normalization image_size frames frames_per_second frame_choice frames_as augment visual_normalization on_error
sequence_steps encoder_weights encoder_freeze encoder_learning_rate_scale
encoder fusion batch_size learning_rate learning_rate_schedule learning_rate_hold learning_rate_step learning_rate_decay optimizer
momentum weight_decay seed device precision on_nan deterministic system_metrics resume_run""".split()
WARMUP = ["warmup_epochs", "warmup_unimodal_weight"]
LOSS = """loss_form unimodal_weight gap_weight shift_weight hard_weight balanced_fusion_weight posterior_weighting
posterior_source gap_gradient anneal anneal_start anneal_end""".split()
STAGE = ["refit_every", "mixture", "gap_source", "optimizer_state", "selection", "register_as"]
ADAPTIVE = [*STAGE, "adaptive_epochs", "adaptive_learning_rate", *LOSS]
STUDY = """study_name search space trials objective sampler pruner workers devices storage worker_restarts
confirm_seeds""".split()


def taken(command):
    return set(COMMANDS[command].parameters)


def test_commands_and_their_parameters():
    assert list(COMMANDS) == [
        "main",
        "warmup",
        "adaptive",
        "train",
        "evaluate",
        "explore",
        "report",
        "prepare",
        "study",
        "worker",
        "reproduce",
        "repair",
        "sync",
    ]
    assert taken("main") == {*COMMON, *WARMUP, *ADAPTIVE, "method", "method_options", "worst"}
    assert taken("warmup") == {*COMMON, *WARMUP}
    assert taken("adaptive") == {*COMMON, "warmup_run", *ADAPTIVE, "worst"}
    assert taken("train") == {*COMMON, "warmup_run", "method", "method_options", "epochs", *STAGE, "worst"}
    assert taken("evaluate") == {"data_dir", "device", "run_id", "split", "probe"}
    assert taken("explore") == {"run_id", "against", "worst", "source", "data_dir", "device"}
    assert taken("report") == {"experiment", "group_by", "baseline", "split", "out"}
    assert taken("prepare") == set(
        """dataset data_dir preset modalities protocol recipe clip_seconds audio_fit
    resampler audio_normalization image_size frames_per_second augment sequence_steps label_separator on_error source workers
    allow_outside""".split()
    )


def test_studies_take_all_training_parameters_and_their_own():
    trained = {*COMMON, *WARMUP, "warmup_run", "method", "method_options", "epochs", *ADAPTIVE}
    assert taken("study") == {*(trained - {"device", "resume_run"}), *STUDY}
    assert taken("worker") == {"device", "study_name", "storage"}
    assert {name: option.default for name, option in study_options().items()} == {
        "study_name": "auto", "search": "anneal_and_weights", "space": "none", "trials": 40, "objective": "auto",
        "sampler": "tpe", "pruner": "hyperband", "workers": "auto", "devices": "auto", "storage": "auto",
        "worker_restarts": 3, "confirm_seeds": 0,
    }  # fmt: skip
    assert study_options()["search"].choices == (
        "anneal", "weights", "anneal_and_weights", "form", "optimizer", "method", "space"
    )  # fmt: skip


def test_reproduce_takes_its_own_parameters():
    assert taken("reproduce") == {
        *"preset tables seeds first_seed dry_run dataset workers".split(),
        "data_dir",
        "device",
        "allow_outside",
    }
    assert {name: option.default for name, option in reproduction_options().items()} == {
        "preset": "digits", "tables": "auto", "seeds": 3, "first_seed": 0, "dry_run": False, "dataset": "auto", "workers": "auto",
    }  # fmt: skip
    assert reproduction_options()["preset"].choices == (
        "digits", "grid", "cremad", "ave", "kinetics_sounds", "manifest", "quick"
    )  # fmt: skip


def test_repair_takes_its_own_parameters():
    assert taken("repair") == {"dry_run", "older_than_hours"}
    assert {name: option.default for name, option in repair_options().items()} == {
        "dry_run": False, "older_than_hours": "none",
    }  # fmt: skip


def test_defaults():
    defaults = {name: option.default for name, option in options().items()}
    expected_auto = set(
        """data_dir preset visual_difficulty train_fraction image_size clip_seconds encoder batch_size learning_rate
        learning_rate_schedule learning_rate_step learning_rate_decay device warmup_epochs warmup_unimodal_weight
        adaptive_epochs refit_every adaptive_learning_rate balanced_fusion_weight epochs recipe audio_fit audio_normalization frames
        frames_per_second frame_choice augment visual_normalization workers corruption""".split()
    )
    assert {name for name, value in defaults.items() if value == "auto"} == expected_auto
    fixed = {
        "dataset": "digits", "modalities": "audio,visual", "corruption_kind": "mixed", "corruption_modality": "all",
        "on_error": "fail", "allow_outside": False, "fusion": "concat",
        "optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0001, "selection": "last", "seed": 0,
        "precision": "float32", "on_nan": "stop", "resume_run": "none", "warmup_run": "none", "optimizer_state": "reset",
        "mixture": "two", "gap_source": "refit", "loss_form": "reconstructed", "unimodal_weight": 1.0,
        "gap_weight": 0.5, "shift_weight": 0.5, "hard_weight": 1.0,
        "posterior_weighting": "posterior", "posterior_source": "refit", "gap_gradient": "both",
        "anneal": "cosine", "anneal_start": 1.0, "anneal_end": 0.1, "run_id": "none", "split": "test",
        "learning_rate_hold": 0, "protocol": "published", "resampler": "soxr_hq", "source": "none", "method": "gap_mixture",
        "frames_as": "images", "method_options": "none", "probe": False, "deterministic": False, "worst": 100, "against": "none",
        "register_as": "none", "system_metrics": False, "encoder_weights": "none",
        "encoder_freeze": "none", "encoder_learning_rate_scale": "1.0",
        "experiment": "none", "group_by": "none", "baseline": "none", "out": "none",
        "sequence_steps": "none", "label_separator": "none",
    }  # fmt: skip
    assert {name: value for name, value in defaults.items() if value != "auto"} == fixed
    assert COMMANDS["train"].defaults == {"method": "concat"}


def test_choices():
    choices = {name: option.choices for name, option in options().items() if option.choices}
    assert choices == {
        "on_error": ("fail", "skip"),
        "on_nan": ("stop", "skip"),
        "corruption_kind": ("mixed", "noise", "blank", "other", "mismatch", "label"),
        "protocol": ("published", "speaker"),
        "recipe": ("stft257", "fbank128", "logmel64", "embedded"),
        "audio_fit": ("tile", "pad"),
        "resampler": ("soxr_hq", "soxr_vhq", "polyphase", "kaiser_best"),
        "audio_normalization": ("none", "sample", "audioset", "train"),
        "frame_choice": ("random", "segment_start", "first"),
        "frames_as": ("images", "channels"),
        "augment": ("resized_crop_flip", "crop_flip", "none"),
        "visual_normalization": ("imagenet", "train"),
        "fusion": ("concat", "sum", "film", "gated"),
        "learning_rate_schedule": ("constant", "step", "cosine"),
        "optimizer": ("sgd", "adam"),
        "selection": ("last", "best_validation"),
        "precision": ("float32", "bfloat16", "float16"),
        "optimizer_state": ("reset", "keep"),
        "mixture": ("two", "two_absolute", "three"),
        "gap_source": ("refit", "running", "cross_fitted"),
        "loss_form": ("reconstructed", "prose", "abstract_v2"),
        "posterior_weighting": ("posterior", "none", "prior"),
        "posterior_source": ("refit", "current"),
        "gap_gradient": ("both", "weaker"),
        "anneal": ("constant", "linear", "cosine", "exponential"),
        "split": ("train", "val", "test"),
    }


def test_metric_and_artifact_names():
    assert set(names.REFIT_METRICS) == {
        *(f"gmm/{side}_{what}" for side in ("balanced", "imbalanced") for what in ("mean", "std", "weight")),
        "gmm/density_at_zero", "gmm/log_likelihood", "gmm/bic", "gmm/separated", "gmm/degenerate",
        "gmm/posterior_monotone", "gap/mean", "gap/std", "gap/mean_abs", "gap/fraction_imbalanced",
    }  # fmt: skip
    assert set(names.SPLIT_METRICS) == {
        "loss", "accuracy", "accuracy_<modality>", "macro_f1", "mean_average_precision", "gap_mean", "gap_std", "gap_mean_abs",
        "shapley_<modality>", "imbalance_degree",
    }  # fmt: skip
    assert set(names.VALIDATION_REFIT_METRICS) == {"val/density_at_zero"}
    assert set(names.ON_NAN_METRICS) == {"train/samples_left_out"}
    assert set(names.TRAIN_METRICS) == {
        "train/loss", "train/loss_fusion", "train/loss_unimodal", "train/loss_gap", "train/loss_shift",
        "train/loss_hard", "train/loss_<part>", "train/samples_per_second", "learning_rate", "anneal",
    }  # fmt: skip
    assert set(names.COST_METRICS) == {
        "cost/forward_passes", "cost/backward_passes", "cost/relative", "cost/step_milliseconds",
        "cost/peak_memory_megabytes",
    }  # fmt: skip
    assert set(names.PROBE_METRICS) == {"probe_accuracy_<modality>", "probe_gap"}
    assert names.refit_folder(12) == "refits/epoch_0012"
    assert (names.GAP_FIGURE, names.EVOLUTION_FIGURE, names.ACCURACY_FIGURE) == (
        "figures/gap_mixture.png", "figures/mixture_evolution.png", "figures/unimodal_accuracy.png"
    )  # fmt: skip
    assert (names.CONFIG_FILE, names.ENVIRONMENT_FILE) == ("config.json", "environment.json")
    assert names.DENSITY_IMAGE_KEY == "gmm/density"
    assert (names.MIXTURE_FILE, names.DENSITY_FILE, names.GAPS_FILE) == ("mixture.json", "density.png", "gaps.parquet")
    assert (names.VALIDATION_MIXTURE_FILE, names.VALIDATION_GAPS_FILE) == (
        "validation_mixture.json", "validation_gaps.parquet"
    )  # fmt: skip


def test_python_surface():
    import mm_balance

    assert set(mm_balance.__all__) >= {
        "modality_gap", "fit_mixture", "adaptive_loss", "LossWeights", "METHODS", "from_dataset", "InputColumn"
    }  # fmt: skip
    assert set(mm_balance.__all__) >= {"measure", "Measured", "log_refit", "run", "Result"}
    assert set(mm_balance.METHODS) == {
        "concat", "concat_unimodal", "one_modality", "audio_only", "visual_only", "ensemble",
        "g_blending", "ogm", "ogm_ge", "greedy", "pmr", "agm", "mla", "diagnose_relearn", "opm", "opm_ogm", "gap_mixture",
        "mmcosine", "mmpareto", "umt", "sample_valuation", "focal", "purified", "posterior_discount", "gce", "loss_mixture",
        "lfm", "reconboost", "cml", "amco", "mbsd",
    }  # fmt: skip
