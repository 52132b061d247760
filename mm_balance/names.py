"""Names of all metrics, tags and artifacts with their meaning. ``docs/glossary.md`` is generated from this module.

The step of a metric is the number of epochs finished, counted over both stages. ``<modality>`` stands for the name of a modality.
"""

from __future__ import annotations

TRAIN_METRICS = {
    "train/loss": "mean of the total loss over the epoch",
    "train/loss_fusion": "part of the loss: cross-entropy of the fused logits, as weighted in the total",
    "train/loss_unimodal": "part of the loss: cross-entropies of the unimodal logits, as weighted in the total",
    "train/loss_gap": "part of the loss: penalty on the absolute gap (alpha)",
    "train/loss_shift": "part of the loss: pull of imbalanced samples towards the balanced center (beta)",
    "train/loss_hard": "part of the loss: extra weight on imbalanced samples (gamma)",
    "train/loss_<part>": "another part of a method's loss, as weighted in the total (docs/methods.md)",
    "train/samples_per_second": "training samples per second, without split predictions and validation",
    "learning_rate": "learning rate of the epoch",
    "anneal": "lambda(t), the coefficient of the gap terms in the epoch (0 if the method has none)",
}

ON_NAN_METRICS = {
    "train/samples_left_out": "samples of the epoch that were left out because the loss or a gradient of their batch was not finite",
}
"""Logged while training with ``on_nan=skip``."""

SPLIT_METRICS = {
    "loss": "cross-entropy of the fused prediction",
    "accuracy": "fraction of samples whose fused prediction is the true class, or one of several true ones, 0 to 1",
    "accuracy_<modality>": "the same for one modality alone (its unimodal logits); if the branches of a method exchange information "
    "(tag `mm.unimodal`), this and the following metrics are per branch",
    "shapley_<modality>": "Shapley value of a modality for the accuracy; features of modalities outside a coalition are zero",
    "imbalance_degree": "largest minus smallest Shapley value",
    "macro_f1": "unweighted mean over classes of F1, 0/0 = 0",
    "mean_average_precision": "mean over classes of one-versus-rest average precision",
    "gap_mean": "mean modality gap; positive = the first modality is ahead",
    "gap_std": "standard deviation of the modality gap",
    "gap_mean_abs": "mean absolute modality gap",
}
"""Logged as ``val/...`` each epoch, and as ``test/...`` only by evaluation (nothing is selected on test)."""

PROBE_METRICS = {
    "probe_accuracy_<modality>": "accuracy of a linear classifier on features of the modality's frozen encoder, fitted on train",
    "probe_gap": "probe accuracy of the first modality minus the best of the others",
}
"""Logged as ``test/...`` (or another split) by ``evaluate`` with ``probe=true``."""

VALIDATION_REFIT_METRICS = {
    "val/density_at_zero": "fitted density at gap 0 of a mixture of the same kind on the validation gaps, which cannot be memorized",
}
"""Logged at each refit; the other validation gaps are logged each epoch (``SPLIT_METRICS``)."""

REFIT_METRICS = {
    "gmm/balanced_mean": "mean of the balanced component (smaller second moment about zero)",
    "gmm/balanced_std": "its standard deviation",
    "gmm/balanced_weight": "its mixture weight",
    "gmm/imbalanced_mean": "mean of the imbalanced component",
    "gmm/imbalanced_std": "its standard deviation",
    "gmm/imbalanced_weight": "its mixture weight",
    "gmm/density_at_zero": "fitted density at gap 0",
    "gmm/log_likelihood": "mean log-likelihood per sample",
    "gmm/bic": "Bayesian information criterion of the fit",
    "gmm/separated": "1 = the mixture beats one Gaussian by BIC (informative only: the fit is used either way)",
    "gmm/degenerate": "1 = too few, constant or non-finite gaps: one component, posterior 0",
    "gmm/posterior_monotone": "1 = the posterior never decreases as the absolute gap grows over the observed range",
    "gap/mean": "mean gap over the training split (where its gaps come from: `gap_source`)",
    "gap/std": "its standard deviation",
    "gap/mean_abs": "mean absolute gap over the training split",
    "gap/fraction_imbalanced": "fraction of training samples with posterior_imbalanced above 0.5",
}

TRUTH_METRICS = {
    "truth/auc_gap_abs": "area under the ROC curve of abs(gap) for detecting the deliberately corrupted samples",
    "truth/auc_posterior": "the same for posterior_imbalanced",
    "truth/auc_loss": "the same for -log p of the fused prediction, the common baseline",
    "truth/auc_sign_<modality>": "the same for the signed gap and samples corrupted in that modality (which then lags behind)",
}
"""Logged at each refit if samples were deliberately corrupted (``corruption`` above 0)."""

DOUBT_METRICS = {
    "truth/auc_doubt_<modality>": "area under the ROC curve of the method's doubt about a modality (`doubt_<modality>`) for detecting "
    "the samples corrupted in that modality",
    "truth/doubt_corrupted_<modality>": "mean doubt about that modality over the samples corrupted in it",
    "truth/doubt_clean_<modality>": "mean doubt about that modality over the clean samples: what doubting costs",
}
"""The same for methods that doubt (``Method.doubts``)."""

METHOD_METRICS = {
    "method/weight_<head>": "G-Blending: weight of a head's loss",
    "method/pulled_back_<modality>": "Diagnosing & Re-learning: how far the encoder was reset towards its initial weights, 0 to 1",
    "method/value_<modality>": "sample-level valuation: mean Shapley value of the training samples",
    "method/shown_again_<modality>": "sample-level valuation: repetitions with that modality alone, per training sample",
    "method/share_kept": "purification: fraction of the training samples that is kept",
    "method/doubt_<modality>": "mean doubt about a modality over the training samples, 0 to 1",
}
"""Values that methods log before an epoch."""

COST_METRICS = {
    "cost/forward_passes": "forward passes through the encoders of all modalities, per training sample of the stage and per epoch",
    "cost/backward_passes": "the same for backward passes",
    "cost/relative": "(forward + 2 backward) / 3: encoder work relative to joint training",
    "cost/step_milliseconds": "mean training time per update over the stage, including waiting for data",
    "cost/peak_memory_megabytes": "peak memory of tensors on the GPU during the stage; on a CPU, peak memory of the process so far",
}
"""Logged at the end of a stage. Validation and the predictions for refits, which all methods share, are not counted."""

BOTH_STAGES_PREFIX = "both_stages/"
BOTH_STAGES_METRICS = {
    "both_stages/val_accuracy": "`val/accuracy` of the warm-up, then of stage 2",
    "both_stages/val_accuracy_<modality>": "`val/accuracy_<modality>`, likewise",
    "both_stages/gap_mean": "`gap/mean`: training samples, at each refit of either stage",
    "both_stages/gap_mean_abs": "`gap/mean_abs`, likewise",
    "both_stages/val_gap_mean": "`val/gap_mean`: validation samples, each epoch",
    "both_stages/val_gap_mean_abs": "`val/gap_mean_abs`, likewise",
}
"""Copied to the run of ``main`` while its nested stages train: the series that one wants to see across both."""

SELECTION_METRICS = {
    "selection/last_epoch": "last epoch of the run",
    "selection/last_val_accuracy": "val/accuracy at the last epoch",
    "selection/best_epoch": "first epoch with the best val/accuracy of this stage",
    "selection/best_val_accuracy": "val/accuracy at that epoch",
}

TRACKING_METRICS = {
    "time/training_seconds": "seconds in training, split predictions and validation of this stage, over all processes of a resumed "
    "run (each up to its last checkpoint)",
    "time/checkpoint_seconds": "seconds spent on writing checkpoints to the local disk, likewise",
    "time/tracking_seconds": "seconds spent on logging to MLflow during training (including checkpoint uploads), likewise",
    "time/publishing_seconds": "seconds spent on figures and the model at the end",
    "time/refit_logging_seconds": "mean seconds of logging per refit: plots, tables, metrics",
}

SUMMARY_METRICS = SELECTION_METRICS | COST_METRICS | TRACKING_METRICS
"""Single numbers of a stage. They are metrics of a run without parent; a nested run has them in ``SUMMARY_TABLE``, because MLflow
draws a chart of every metric, also of one with one point."""

SYSTEM_METRICS = {
    "system/cpu_utilization_percentage": "use of all CPU cores",
    "system/system_memory_usage_<unit>": "memory used on the machine, `percentage` or `megabytes`",
    "system/disk_<what>": "`usage_percentage`, `usage_megabytes` and `available_megabytes` of the root disk",
    "system/network_<what>_megabytes": "`receive` and `transmit` since training began",
    "system/gpu_<number>_<what>": "of each GPU: `utilization_percentage`, `memory_usage_...`, `power_usage_...`",
}
"""Logged by MLflow's monitor during training with ``system_metrics=true``, each the mean over an interval; step = number of the
interval (10 seconds)."""

DATA_METRICS = {
    "data/train": "training samples",
    "data/val": "validation samples",
    "data/test": "test samples",
    "data/skipped": "clips and rows dropped under on_error=skip",
    "data/duplicates": "validation and test samples with a file whose content is also in an earlier split",
    "data/excluded": "clips excluded by the data set's own recipe",
}
"""Logged by ``prepare``."""

STUDY_METRICS = {
    "study/best_value": "best objective value so far (the first of two); step = trials finished",
    "study/trials_complete": "completed trials",
    "study/trials_pruned": "pruned trials",
    "study/trials_failed": "failed trials",
    "study/epochs": "epochs trained by all trials, plus the warm-up if the study trained it",
    "study/epochs_share": "`study/epochs` as a fraction of the epochs of as many full runs, warm-up included",
    "study/minutes": "minutes this command took",
    "study/confirmed_difference": "best trial minus starting configuration on the new seeds: mean of the validation objective; step = "
    "number of the confirmation (the last one counts)",
    "study/confirmed_difference_std": "its standard deviation over the new seeds",
}
"""Logged to the run of a study."""

TAGS = {
    "mm.stage": "entry point or stage of the run",
    "mm.method": "method in METHODS",
    "mm.dataset": "data set",
    "mm.data_warnings": "number of warnings about the data, and the beginning of the first (all are on the page and in `data.json`)",
    "mm.changed": "what was set otherwise than by the data set's preset, in words (the run's name may shorten it)",
    "mm.data_digest": "SHA-256 of data, split and recipe",
    "mm.fingerprint": "fingerprint of the warm-up that the run is or started from: equal fingerprint = interchangeable warm-up",
    "mm.loss_form": "form of the adaptive loss (a reconstruction); `none` = another method",
    "mm.unimodal": "`branches` = per-modality results are those of branches that also receive other modalities",
    "mm.settings": "SHA-256 of everything the result depends on: equal = the same training (campaigns reuse such runs)",
    "mm.code": "SHA-256 of the source code involved in training",
    "mm.grown": "where the run was resumed with more epochs than first planned",
    "mm.mixed": "how the processes that trained the run differ: code, device, threads (no single command reproduces it)",
    "mm.replaced": "why a nested run is superseded",
    "config/<name>": "resolved parameters that may change when a run is resumed (the others are MLflow parameters)",
    "mm.seed": "seed",
    "mm.version": "version of MM-Balance",
    "mm.git_dirty": "whether the working tree had uncommitted changes",
    "mm.warmup_run": "run id of the warm-up",
    "mm.fresh_weights": "parameters of a method's own head that the warm-up did not have",
    "mm.evaluated_run": "run id of the evaluated model",
    "mm.split": "split of an evaluation",
    "mm.error": "why the run failed",
    "mm.process": "process that began or last continued the run: id, machine, time, entry point",
    "mm.row": "where the run's result stands: table, group, row (runs of `reproduce`)",
    "mm.job": "SHA-256 of row settings, seed, data, code and device: equal = the same training (`reproduce` trains it once)",
    "mm.diverged": "true = the loss or a weight was no longer finite: the same training would fail again",
    "mm.study": "name of the study, on its run and on all trials",
    "mm.trial": "number of the trial in the study",
    "mm.device": "device of the worker that trained the trial",
    "mm.pruned": "true = the trial was pruned",
    "mm.retry_of": "trial that this one resumes from its checkpoint",
    "mm.result": "validation accuracies of a trial",
    "mm.confirms": "`best` or `start`: the configuration that the run retrains with a new seed",
    "resumed_run": "id of the run that this run only resumed",
    "mm.resumed_from_epoch": "epoch from which the run was last resumed",
}

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
DATA_FILE = "data.json"
DATA_FOLDER = "data"
CARD_FILE = "card.md"
SHEET_FILE = "contact_sheet.png"
SAMPLES_FILE = "samples.parquet"
EXPLORER_FILE = "explorer.html"
SUSPECTS_FILE = "suspects.csv"
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_LAST = "last"
CHECKPOINT_PREVIOUS = "previous"
"""The one before the last, only in the working folder."""
CHECKPOINT_BEST = "best"
GAP_FIGURE = "figures/gap_mixture.png"
EVOLUTION_FIGURE = "figures/mixture_evolution.png"
ACCURACY_FIGURE = "figures/unimodal_accuracy.png"
EVALUATION_FOLDER = "evaluation"
CONFUSION_FIGURE = "evaluation/confusion.png"
RELIABILITY_FIGURE = "evaluation/reliability.png"
CLASS_GAP_FIGURE = "evaluation/gap_per_class.png"
CLASS_TABLE = "evaluation/per_class"
REFITS_FOLDER = "refits"
MIXTURE_FILE = "mixture.json"
DENSITY_FILE = "density.png"
GAPS_FILE = "gaps.parquet"
VALIDATION_MIXTURE_FILE = "validation_mixture.json"
VALIDATION_GAPS_FILE = "validation_gaps.parquet"
SUMMARY_TABLE = "summary"
DENSITY_IMAGE_KEY = "gmm/density"
FIRST_IMAGE_KEY = "balance/density"
"""The same image once more, first on a run's page: MLflow sorts sections by name, and in `gmm` a dozen charts come before it. MLflow's
slider begins at step 0, which has the first fit."""
STUDY_FOLDER = "study"
STUDY_PAGE = "study/figures.html"
STUDY_TABLE = "study/trials"
STUDY_SETTINGS = "study/settings.json"
STUDY_BEST_PRESET = "study/best.yaml"
STUDY_CONFIRMATION = "study/confirmation.json"
REPORT_FILE = "report.html"
REPORT_TEXT = "report.md"
TABLES_FOLDER = "tables"
FIGURES_FOLDER = "figures"
MODEL_NAME = "model"
CONFIG_PREFIX = "config/"

ARTIFACTS = {
    CONFIG_FILE: "every resolved parameter",
    ENVIRONMENT_FILE: "package versions, machine, git commit, command line",
    "environment_epoch_NNNN.json": "the same for the process that resumed the run after NNNN epochs",
    DATA_FILE: "data set: digest, classes, sizes per split, recipe, skipped rows",
    f"{DATA_FOLDER}/{CARD_FILE}": "data card: counts per class and split, inputs of the networks; of prepared sets also "
    "durations, sampling rates, sizes, lists, skipped files",
    f"{DATA_FOLDER}/{SHEET_FILE}": "frames and spectrograms of some training samples",
    f"{DATA_FOLDER}/{SAMPLES_FILE}": "one row per sample: split, label, and of files hashes, durations, and metadata of the data set "
    "(CREMA-D: actor, human votes)",
    EXPLORER_FILE: "every sample of the run in one page: pictures, sounds, predictions, gaps, which modality is suspect",
    SAMPLES_FILE: "the same as a table, with the media of the most suspect samples as {bytes, path}",
    SUSPECTS_FILE: "samples of which something is doubted, those of training first: split, sample, class, doubted modality, corrupted "
    "(where it is known), suspicion, why",
    f"{REFITS_FOLDER}/epoch_NNNN/{MIXTURE_FILE}": "the fitted mixture; load it with Mixture.from_json",
    f"{REFITS_FOLDER}/epoch_NNNN/{DENSITY_FILE}": "histogram of gaps, components, their sum, posterior; below them the gaps of the "
    "validation samples with a mixture of their own",
    f"{REFITS_FOLDER}/epoch_NNNN/{GAPS_FILE}": "one row per training sample: index, sample, label, p_<modality>, p_fused, gap, "
    "posterior_imbalanced (and, for methods that doubt, doubt_<modality>; the deliberate corruption, if known)",
    f"{REFITS_FOLDER}/epoch_NNNN/{VALIDATION_MIXTURE_FILE}": "a mixture of the same kind, fitted to the validation gaps; nothing is "
    "trained with it",
    f"{REFITS_FOLDER}/epoch_NNNN/{VALIDATION_GAPS_FILE}": "the same columns, one row per validation sample; the posterior is that of "
    "the validation mixture",
    f"{SUMMARY_TABLE}.csv": "single numbers of a nested run (`selection/...`, `cost/...`, `time/...`) with their meaning "
    "(`.json`: the UI's table)",
    GAP_FIGURE: "the first fit of stage 2 (the paper's Fig. 2)",
    EVOLUTION_FIGURE: "all fits of the run, if there are several (the paper's Fig. 3)",
    ACCURACY_FIGURE: "validation accuracy per modality over epochs (the paper's Fig. 4)",
    "figures/<figure>.pdf": "the three figures as vector graphics",
    CONFUSION_FIGURE: "of an evaluation: samples by true and predicted class, fused and per modality (also `.pdf`); not with "
    "several classes",
    RELIABILITY_FIGURE: "accuracy against confidence in 15 bins, and the expected calibration error (also `.pdf`)",
    CLASS_GAP_FIGURE: "mean modality gap of each class (also `.pdf`)",
    f"{CLASS_TABLE}.csv": "one row per class: samples, accuracy fused and per modality (with several classes average "
    "precision), mean gap, most frequent confusion (`.json`: the UI's table)",
    f"{CHECKPOINT_FOLDER}/{CHECKPOINT_LAST}": "state after the last epoch: tensors and primitives, `weights_only=True`",
    f"{CHECKPOINT_FOLDER}/{CHECKPOINT_BEST}": "weights of the best validation epoch",
    f"{STUDY_TABLE}.csv": "one row per trial: state, values, parameters, epochs, seconds, device, run (`.json`: the UI's table)",
    STUDY_PAGE: "all figures, interactive, in one self-contained page: history, slice, parallel_coordinate, contour, pareto, and "
    "importance from 10 complete trials on",
    f"{STUDY_FOLDER}/<figure>.png": "the same as images (also `.pdf`)",
    STUDY_BEST_PRESET: "the best trial's values, for `-P preset=FILE`",
    STUDY_SETTINGS: "the settings that every worker reads",
    STUDY_CONFIRMATION: "best trial and starting configuration per new seed",
    REPORT_FILE: "of `report`: all tables and figures of a set of runs, in one page (`report.md`: the same as Markdown)",
    f"{TABLES_FOLDER}/<table>.csv": "of `report`: a table with every number and run id (also `.tex`, `.md`); `runs.csv`: "
    "one row per run",
    f"{FIGURES_FOLDER}/<figure>.svg": "of `report`: a figure as vector graphics (also `.pdf`, `.png`)",
    MODEL_NAME: "the evaluated model as an MLflow model (safetensors and our own loader, no pickle)",
}


def both_stages(metric: str) -> str | None:
    """Return the name under which a series of a nested stage is copied to the run of ``main``; None if it is not."""
    copied = BOTH_STAGES_PREFIX + metric.replace("/", "_")
    accuracy_of_modality = metric.startswith("val/accuracy_")
    return copied if accuracy_of_modality or copied in BOTH_STAGES_METRICS else None


def resumed_environment_file(epoch: int) -> str:
    """Return the artifact path of the environment in which a run was resumed after ``epoch`` epochs."""
    return f"environment_epoch_{epoch:04d}.json"


def refit_folder(epoch: int) -> str:
    """Return the artifact folder of the refit after ``epoch`` epochs."""
    return f"{REFITS_FOLDER}/epoch_{epoch:04d}"


def refit_epoch(folder: str) -> int:
    """Return the epoch of a refit folder: the inverse of ``refit_folder``."""
    return int(folder.removeprefix(f"{REFITS_FOLDER}/epoch_"))
