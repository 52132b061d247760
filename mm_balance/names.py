"""Every metric, tag and artifact name, once, with its meaning. README's glossary is generated from here.

Step of every metric = epochs finished, counted over both stages. ``<modality>`` stands for a modality's name.
"""

from __future__ import annotations

TRAIN_METRICS = {
    "train/loss": "mean of the total loss over the epoch",
    "train/loss_fusion": "part of it: cross-entropy of the fused logits, as weighted in the total",
    "train/loss_unimodal": "part of it: cross-entropies of the unimodal logits, as weighted in the total",
    "train/loss_gap": "part of it: penalty on the absolute gap (alpha)",
    "train/loss_shift": "part of it: pull of imbalanced samples to the balanced center (beta)",
    "train/loss_hard": "part of it: extra weight on imbalanced samples (gamma)",
    "train/loss_<part>": "another part of a method's loss, as weighted in the total (docs/methods.md)",
    "train/samples_per_second": "training samples per second, surveys and validation not counted",
    "learning_rate": "rate used in the epoch",
    "anneal": "lambda(t), the strength of the gap terms in the epoch (0 where a method has none)",
}

SPLIT_METRICS = {
    "loss": "cross-entropy of the fused prediction",
    "accuracy": "share of samples whose fused prediction is right, 0 to 1",
    "accuracy_<modality>": "the same for one modality alone (its unimodal logits); of a method whose branches see each other, which "
    "the tag `mm.unimodal` says, for that branch, and likewise what follows",
    "shapley_<modality>": "Shapley value of a modality for the accuracy; outside a coalition, features are zero",
    "imbalance_degree": "largest minus smallest Shapley value",
    "macro_f1": "unweighted mean over classes of F1, 0/0 = 0",
    "mean_average_precision": "mean over classes of one-versus-rest average precision",
    "gap_mean": "mean modality gap; positive = the first modality is ahead",
    "gap_mean_abs": "mean absolute modality gap",
}
"""Logged as ``val/...`` each epoch and as ``test/...`` by evaluation only (no choice is ever made on test)."""

PROBE_METRICS = {
    "probe_accuracy_<modality>": "accuracy of a linear classifier on the modality's frozen encoder, trained on train",
    "probe_gap": "that of the first modality minus the best of the others",
}
"""Logged as ``test/...`` (or another split) by ``evaluate`` with ``probe=true``."""

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
    "gmm/separated": "1 = the mixture beats one Gaussian by BIC (a report: the fit is used either way)",
    "gmm/degenerate": "1 = too few, constant or non-finite gaps: one component, posterior 0",
    "gmm/posterior_monotone": "1 = the posterior never falls as the absolute gap grows over the observed range",
    "gap/mean": "mean gap over the training split (eval mode)",
    "gap/std": "its standard deviation",
    "gap/mean_abs": "mean absolute gap over the training split",
    "gap/fraction_imbalanced": "share of training samples with posterior_imbalanced above 0.5",
}

TRUTH_METRICS = {
    "truth/auc_gap_abs": "how well abs(gap) finds all samples corrupted on purpose (area under the ROC curve)",
    "truth/auc_posterior": "the same for posterior_imbalanced",
    "truth/auc_loss": "the same for -log p of the fused prediction, the usual baseline",
    "truth/auc_sign_<modality>": "how well the signed gap finds samples corrupted in that modality (it lags behind)",
}
"""Logged at each refit where the data set knows which samples are corrupted (``digits``)."""

METHOD_METRICS = {
    "method/weight_<head>": "G-Blending: weight of a head's loss",
    "method/pulled_back_<modality>": "Diagnosing & Re-learning: how far the encoder went back to its start, 0 to 1",
    "method/value_<modality>": "sample-level valuation: mean Shapley value of the training samples",
    "method/shown_again_<modality>": "sample-level valuation: showings with that modality alone, per training sample",
    "method/share_kept": "purification: share of the training samples that are trained on",
}
"""What a method notes before an epoch."""

COST_METRICS = {
    "cost/forward_passes": "passes through the encoders of all modalities, per training sample of the stage and epoch",
    "cost/backward_passes": "the same backward",
    "cost/relative": "(forward + 2 backward) / 3: encoder work as a multiple of joint training's",
    "cost/step_milliseconds": "training time per update, mean over the stage (waiting for data included)",
    "cost/peak_memory_megabytes": "most memory held by tensors of a GPU during the stage; on a CPU, by the process so far",
}
"""At the end of a stage. Validation, and surveys that only measure, are not counted."""

SELECTION_METRICS = {
    "selection/last_epoch": "last epoch of the run",
    "selection/last_val_accuracy": "val/accuracy at the last epoch",
    "selection/best_epoch": "first epoch with the best val/accuracy of this stage",
    "selection/best_val_accuracy": "val/accuracy at that epoch",
}

TRACKING_METRICS = {
    "time/training_seconds": "seconds in training, surveys and validation of this stage, over all processes of a resumed run "
    "(up to the checkpoint that each left)",
    "time/checkpoint_seconds": "seconds of writing checkpoints to the local disk, likewise",
    "time/tracking_seconds": "seconds spent on logging to MLflow while training (checkpoint uploads included), likewise",
    "time/publishing_seconds": "seconds at the end for figures and model",
    "time/refit_logging_seconds": "seconds of logging per refit: plots, tables, metrics (mean)",
}

DATA_METRICS = {
    "data/train": "training samples",
    "data/val": "validation samples",
    "data/test": "test samples",
    "data/skipped": "clips and rows dropped under on_error=skip",
    "data/excluded": "clips that the data set's own recipe leaves out",
}
"""Logged by ``prepare``."""

STUDY_METRICS = {
    "study/best_value": "best objective so far (of two, the first); step = trials finished",
    "study/trials_complete": "trials trained to their end",
    "study/trials_pruned": "trials that the pruner ended",
    "study/trials_failed": "trials that failed",
    "study/epochs": "epochs trained by all trials, and by the warm-up where the study made it",
    "study/epochs_share": "of the epochs that as many full runs would have trained, warm-up included",
    "study/minutes": "minutes of this command",
    "study/confirmed_difference": "best trial minus starting configuration on the new seeds: mean of val objective; step = number "
    "of the confirmation, the last one counts",
    "study/confirmed_difference_std": "its standard deviation over the new seeds",
}
"""On the run of a study."""

TAGS = {
    "mm.stage": "entry point or stage of the run",
    "mm.method": "method in METHODS",
    "mm.dataset": "data set",
    "mm.data_digest": "SHA-256 of data, split and recipe",
    "mm.fingerprint": "of the warm-up that the run is or began from: equal fingerprint = interchangeable warm-up",
    "mm.loss_form": "form of the adaptive loss (a reconstruction); `none` = of another method",
    "mm.unimodal": "`branches` = what is called a modality's own is of a branch that sees the others",
    "mm.settings": "SHA-256 of all that the result depends on: equal = the same training (campaigns use it again)",
    "mm.code": "SHA-256 of the sources that train",
    "mm.grown": "where the run was continued with more epochs than planned before",
    "mm.mixed": "in what the processes that trained the run differ: code, device, threads (no one command repeats it)",
    "mm.replaced": "why a nested run no longer counts",
    "config/<name>": "resolved parameters that may change when a run is continued (others are MLflow parameters)",
    "mm.seed": "seed",
    "mm.version": "version of MM-Balance",
    "mm.git_dirty": "whether the working tree had uncommitted changes",
    "mm.warmup_run": "run id of the warm-up",
    "mm.fresh_weights": "parameters that a method's own head has and the warm-up had not",
    "mm.evaluated_run": "run id whose model was evaluated",
    "mm.error": "why the run failed",
    "mm.study": "name of the study, on its run and on every trial",
    "mm.trial": "number of the trial in the study",
    "mm.device": "device of the worker that trained the trial",
    "mm.pruned": "true = the pruner ended the trial",
    "mm.retry_of": "trial that this one takes over, from its checkpoint",
    "mm.result": "validation accuracies of a trial",
    "mm.confirms": "`best` or `start`: which configuration the run trains again on a new seed",
    "resumed_run": "this run only continued that one",
    "mm.resumed_from_epoch": "epoch from which the run was last continued",
}

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
DATA_FILE = "data.json"
DATA_FOLDER = "data"
CARD_FILE = "card.md"
SHEET_FILE = "contact_sheet.png"
SAMPLES_FILE = "samples.parquet"
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_LAST = "last"
CHECKPOINT_BEST = "best"
GAP_FIGURE = "figures/gap_mixture.png"
EVOLUTION_FIGURE = "figures/mixture_evolution.png"
ACCURACY_FIGURE = "figures/unimodal_accuracy.png"
REFITS_FOLDER = "refits"
MIXTURE_FILE = "mixture.json"
DENSITY_FILE = "density.png"
GAPS_FILE = "gaps.parquet"
DENSITY_IMAGE_KEY = "gmm/density"
STUDY_FOLDER = "study"
STUDY_TABLE = "study/trials"
STUDY_SETTINGS = "study/settings.json"
STUDY_BEST_PRESET = "study/best.yaml"
STUDY_CONFIRMATION = "study/confirmation.json"
MODEL_NAME = "model"
CONFIG_PREFIX = "config/"

ARTIFACTS = {
    CONFIG_FILE: "every resolved parameter",
    ENVIRONMENT_FILE: "package versions, machine, git commit, command line",
    "environment_epoch_NNNN.json": "the same of the process that continued the run after so many epochs",
    DATA_FILE: "data set: digest, classes, sizes per split, recipe, skipped rows",
    f"{DATA_FOLDER}/{CARD_FILE}": "data card of a prepared set: counts, durations, rates, sizes, lists, skipped files",
    f"{DATA_FOLDER}/{SHEET_FILE}": "frames beside spectrograms of some training samples",
    f"{DATA_FOLDER}/{SAMPLES_FILE}": "one row per sample: split, label, files, hashes, durations, and what the data set knows "
    "of it (CREMA-D: actor, human votes)",
    f"{REFITS_FOLDER}/epoch_NNNN/{MIXTURE_FILE}": "the fitted mixture; reads back with Mixture.from_json",
    f"{REFITS_FOLDER}/epoch_NNNN/{DENSITY_FILE}": "histogram of gaps, components, their sum, posterior",
    f"{REFITS_FOLDER}/epoch_NNNN/{GAPS_FILE}": "one row per training sample: index, sample, label, p_<modality>, p_fused, gap, "
    "posterior_imbalanced (and the planted corruption, where known)",
    GAP_FIGURE: "the first fit of stage 2 (the paper's Fig. 2)",
    EVOLUTION_FIGURE: "all fits of the run, where there are several (the paper's Fig. 3)",
    ACCURACY_FIGURE: "validation accuracy per modality over epochs (the paper's Fig. 4)",
    f"{CHECKPOINT_FOLDER}/{CHECKPOINT_LAST}": "state after the last epoch: tensors and primitives, `weights_only=True`",
    f"{CHECKPOINT_FOLDER}/{CHECKPOINT_BEST}": "weights of the best validation epoch",
    f"{STUDY_TABLE}.csv": "one row per trial: state, values, parameters, epochs, seconds, device, run (`.json`: the UI's table)",
    f"{STUDY_FOLDER}/<figure>.html": "interactive, self-contained: history, importance, slice, parallel_coordinate, contour, pareto",
    f"{STUDY_FOLDER}/<figure>.png": "the same as pictures",
    STUDY_BEST_PRESET: "the best trial's values, for `-P preset=FILE`",
    STUDY_SETTINGS: "the settings that every worker reads",
    STUDY_CONFIRMATION: "best trial and starting configuration on new seeds, seed by seed",
    MODEL_NAME: "the evaluated model as an MLflow model (safetensors and our own loader, no pickle)",
}


def resumed_environment_file(epoch: int) -> str:
    """Artifact of the environment in which a run went on after ``epoch`` epochs."""
    return f"environment_epoch_{epoch:04d}.json"


def refit_folder(epoch: int) -> str:
    """Artifact folder of the refit after ``epoch`` epochs."""
    return f"{REFITS_FOLDER}/epoch_{epoch:04d}"


def refit_epoch(folder: str) -> int:
    """The inverse of ``refit_folder``."""
    return int(folder.removeprefix(f"{REFITS_FOLDER}/epoch_"))
