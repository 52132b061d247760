"""Every run parameter, declared once: name, type, default, choices, range, help, source, search range, and properties as flags.

Command line, glossary and search spaces are derived from these declarations, and a test compares ``MLproject`` with them.
Nothing here imports torch.

``auto`` = the preset of the data set decides; ``none`` = unset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from mm_balance.config.option import AUTO, NONE, MethodOptions, Option, declared_in, param

PAPER = "arXiv 2510.21797v1"
ADAPTIVE_METHOD = "gap_mixture"
"""The paper's method, and the default method of stage 2."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data set and split."""

    dataset: str = param(
        "digits",
        "`digits` (embedded), `grid`, `cremad`, `ave`, `kinetics_sounds`, the path of a manifest.csv, a plug-in, or your own "
        "function, `package.module:build`",
        in_digest=True,
        stored=True,
    )
    modalities: str = param(
        "audio,visual",
        "comma-separated columns of the manifest, or modalities of your own data set; the first is the leading one of the gap",
        network_input=True,
        stored=True,
    )
    train_fraction: float = param(
        AUTO,
        "stratified fraction of the training split to use",
        minimum=0.0,
        exclusive=True,
        maximum=1.0,
        network_input=True,
    )
    protocol: str = param(
        "published",
        "which split: the published lists, or `speaker` = disjoint speakers (`cremad`, `grid`)",
        choices=("published", "speaker"),
        in_digest=True,
        stored=True,
    )
    label_separator: str | None = param(
        NONE,
        "a manifest's samples may have several true classes, separated by this in the column `label`, as `|`; `none` = one class each",
        in_digest=True,
        stored=True,
    )
    on_error: str = param(
        "fail",
        "bad files and rows: `fail` stops before training, `skip` drops and counts them",
        choices=("fail", "skip"),
        in_digest=True,
        stored=True,
    )
    allow_outside: bool = param(
        False,
        "whether a manifest may name files outside its folder: by absolute paths, `..` or symbolic links; a raw download, by links",
        machine=True,
        stored=True,
    )
    data_dir: str = param(AUTO, "folder of prepared data; `auto` = the user's cache folder", machine=True)


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """From files to network inputs."""

    recipe: str = param(
        AUTO,
        "audio features: `stft257` (OGM-GE), `fbank128` (Kaldi's, as in MLA), `logmel64` (ours); `embedded` = shipped with digits",
        choices=("stft257", "fbank128", "logmel64", "embedded"),
        source="OGM-GE_CVPR2022@343dc1d, MLA@ab6c184",
        in_digest=True,
        stored=True,
    )
    clip_seconds: float = param(
        AUTO,
        "length of every audio clip, seconds (OGM-GE: 3 on CREMA-D; LFM: 20; fbank scripts: 10.24)",
        minimum=0.0,
        exclusive=True,
        maximum=86400.0,
        in_digest=True,
        stored=True,
    )
    audio_fit: str = param(
        AUTO,
        "how shorter sounds are extended: `tile` repeats them (OGM-GE), `pad` appends silence (MLA)",
        choices=("tile", "pad"),
        in_digest=True,
        stored=True,
    )
    resampler: str = param(
        "soxr_hq",
        "`soxr_hq`: librosa's default since 0.10; `kaiser_best`: its earlier default, used by the official code (needs resampy)",
        choices=("soxr_hq", "soxr_vhq", "polyphase", "kaiser_best"),
        in_digest=True,
        stored=True,
    )
    audio_normalization: str = param(
        AUTO,
        "normalization of audio features: `none` (OGM-GE, MLA), `sample` (z-score of each, PMR), `audioset` (constants, OGM-GE's "
        "Kinetics script), `train` (mean and standard deviation of the training split)",
        choices=("none", "sample", "audioset", "train"),
        stored=True,
        network_input=True,
    )
    image_size: int = param(
        AUTO,
        "side length of the network's input images, pixels",
        minimum=8,
        maximum=4096,
        stored=True,
        network_input=True,
    )
    frames: int = param(
        AUTO,
        "frames per video that the network sees (OGM-GE: 1 on CREMA-D, 3 elsewhere)",
        minimum=1,
        maximum=10000,
        network_input=True,
    )
    frames_per_second: float = param(
        AUTO,
        "rate at which frames are stored, frames per second",
        minimum=0.0,
        exclusive=True,
        maximum=1000.0,
        in_digest=True,
        stored=True,
    )
    frame_choice: str = param(
        AUTO,
        "`random`: one per segment, in evaluation the middle one (MMPareto, BalanceBenchmark); `segment_start` (OGM-GE on AVE, "
        "MLA); `first` (what OGM-GE's CREMA-D loader does)",
        choices=("random", "segment_start", "first"),
        network_input=True,
    )
    frames_as: str = param(
        "images",
        "what the encoder gets of a video: `images`, whose features are averaged (all official code), or `channels` of one image, "
        "in order (ours: movements count, and it costs one image)",
        choices=("images", "channels"),
        network_input=True,
    )
    augment: str = param(
        AUTO,
        "augmentation of training frames: `resized_crop_flip` (all official code), `crop_flip` (ours, cheaper), `none`",
        choices=("resized_crop_flip", "crop_flip", "none"),
        stored=True,
        network_input=True,
    )
    visual_normalization: str = param(
        AUTO,
        "image normalization: `imagenet` constants (all official code) or `train` (mean and standard deviation of the training split)",
        choices=("imagenet", "train"),
        network_input=True,
    )
    sequence_steps: int | None = param(
        NONE,
        "steps kept of every sequence (a 2-D array in a .npy file): longer ones are cut, shorter ones padded with zeros; `none` = "
        "those of the longest training sequence",
        minimum=1,
        maximum=1_000_000,
        in_digest=True,
        stored=True,
    )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Decoding a raw download."""

    source: str | None = param(
        NONE, "folder of the raw download (not needed for a manifest, which names its files)", reference=True
    )
    workers: int = param(
        AUTO,
        "decoding processes; `auto` = one per core, fewer for small data sets",
        minimum=1,
        maximum=1024,
        machine=True,
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network."""

    encoder: str = param(
        AUTO,
        "encoder of all modalities, or `audio:NAME,visual:NAME`: `by_kind`, `resnet18`, `resnet_narrow`, `mlp`, `transformer`, "
        "`temporal_convolution`, `torchvision/NAME`, `timm/NAME`, `transformers/FOLDER`, an installed plug-in, or your own, "
        "`package.module:build`",
        source=f"{PAPER}, Sec. 4.2: ResNet-18 from scratch",
        network_input=True,
    )
    encoder_weights: str | None = param(
        NONE,
        "pretrained weights to begin with, for all modalities or `audio:FILE,visual:none`: a file of safetensors or of torch's "
        "`weights_only` kind, `download`, or `none` (random)",
        reference=True,
    )
    encoder_freeze: str | None = param(
        NONE,
        "modalities whose encoder is not trained: `all`, or their names; it stays in evaluation mode",
        network_input=True,
    )
    encoder_learning_rate_scale: str = param(
        "1.0",
        "factor of the learning rate of the encoders, at least 0: one for all, or `audio:0.1,visual:1.0`; the head has none",
    )
    fusion: str = param(
        "concat",
        "how features become fused logits; concat and sum have exact unimodal logits",
        choices=("concat", "sum", "film", "gated"),
        source=f"{PAPER}, Eq. 1",
        network_input=True,
    )


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """Optimization, both stages."""

    batch_size: int = param(AUTO, "samples per update", minimum=2, search=(16, 32, 64, 128), searched_by="optimizer")
    learning_rate: float = param(
        AUTO, "initial learning rate", minimum=0.0, exclusive=True, search=(0.0003, 0.1, "log"), searched_by="optimizer"
    )
    learning_rate_schedule: str = param(
        AUTO,
        "`step` counts epochs over both stages; `cosine` decays to 0 over stage 2 and is constant in stage 1",
        choices=("constant", "step", "cosine"),
    )
    learning_rate_hold: int = param(
        0, "`cosine`: epochs at the initial rate before the decay, counted over both stages", minimum=0
    )
    learning_rate_step: int = param(AUTO, "`step`: epochs between two decays", minimum=1)
    learning_rate_decay: float = param(AUTO, "`step`: factor of each decay", minimum=0.0, exclusive=True, maximum=1.0)
    optimizer: str = param("sgd", "optimizer of both stages", choices=("sgd", "adam"), source=f"{PAPER}, Sec. 4.2")
    momentum: float = param(
        0.9,
        "`sgd` only",
        minimum=0.0,
        maximum=0.9999,
        source=f"{PAPER}, Sec. 4.2",
        search=(0.0, 0.5, 0.9, 0.95),
        searched_by="optimizer",
    )
    weight_decay: float = param(
        0.0001,
        "L2 penalty",
        minimum=0.0,
        source="official code of the comparison methods",
        search=(0.00001, 0.01, "log"),
        searched_by="optimizer",
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Seed, device, preset, resuming, monitoring."""

    seed: int = param(0, "seed of the initial weights and the sample order", minimum=0)
    device: str = param(AUTO, "`auto`, `cpu`, `cuda` or `cuda:N`", machine=True, one_process=True)
    precision: str = param("float32", "precision of the forward pass", choices=("float32", "bfloat16", "float16"))
    on_nan: str = param(
        "stop",
        "a batch whose loss or gradient is not finite: `stop` names its samples, `skip` leaves it out and trains on",
        choices=("stop", "skip"),
    )
    deterministic: bool = param(
        False,
        "CUDA: bit-identical results in every run on the same machine, with deterministic kernels only, which are slower; CPU "
        "results are repeatable anyway",
    )
    preset: str = param(
        AUTO,
        "`auto` (the data set's), `quick` (a whole run in seconds), `embeddings` (frozen encoders), or the path of a YAML file",
        machine=True,
        reference=True,
    )
    system_metrics: bool = param(
        False,
        "log CPU, memory, disk, network and GPU during training (an NVIDIA GPU needs the package `nvidia-ml-py`)",
        machine=True,
    )
    resume_run: str | None = param(
        NONE, "id of an unfinished run to continue", machine=True, one_process=True, reference=True
    )


@dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """Stage 1: warm-up."""

    warmup_epochs: int = param(AUTO, "length of stage 1", minimum=1, may_grow=True)
    warmup_unimodal_weight: float = param(
        AUTO, "weight of the unimodal losses in stage 1 (Eq. 7, reconstructed); 0 = plain joint training", minimum=0.0
    )


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Method."""

    method: str = param(ADAPTIVE_METHOD, "a name in `METHODS`, see docs/methods.md")
    method_options: str | None = param(
        NONE,
        "the method's own options, `name=value,name=value`; `python -m entrypoints.train --method NAME --help` lists them",
        reference=True,
    )


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where a stage starts."""

    warmup_run: str | None = param(
        NONE,
        "id of the warm-up run; `none` = the newest finished one with the same fingerprint (`train`: if the method needs "
        "one, else from scratch; methods that hold out training samples cannot use one)",
        reference=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Single-stage training."""

    epochs: int = param(AUTO, "length of the stage", minimum=1, may_grow=True)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Stages other than the warm-up."""

    refit_every: int = param(
        AUTO, "epochs between two refits of the mixture", minimum=1, search=(1, 6, "linear"), searched_by="anneal"
    )
    mixture: str = param(
        "two",
        "two Gaussians on the gap, on its absolute value, or three",
        choices=("two", "two_absolute", "three"),
        source=f"{PAPER}, Eq. 8 (`two`)",
        search=("two", "two_absolute", "three"),
        searched_by="form",
    )
    gap_source: str = param(
        "refit",
        "gaps that the mixture is fitted to and posteriors come from: of the network at each `refit`; `running` means of what "
        "training saw; `cross_fitted`, each sample's from a copy that never trained on it (docs/usage.md: what it costs)",
        choices=("refit", "running", "cross_fitted"),
        source=f"{PAPER}, Eq. 6 (`refit`); the others are ours",
        search=("refit", "running", "cross_fitted"),
    )
    optimizer_state: str = param(
        "reset",
        "optimizer state at the start of stage 2",
        choices=("reset", "keep"),
        source=f"{PAPER}, Table 3",
        search=("reset", "keep"),
        searched_by="optimizer",
    )


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """Stage 2: adaptive training."""

    adaptive_epochs: int = param(AUTO, "length of stage 2", minimum=1, may_grow=True)
    adaptive_learning_rate: float = param(
        AUTO,
        "initial learning rate of stage 2; `auto` = learning_rate",
        minimum=0.0,
        exclusive=True,
        search=(0.0003, 0.1, "log"),
        searched_by="optimizer",
    )


def balanced_fusion_weight(loss_form: str) -> float:
    """Resolve ``balanced_fusion_weight=auto``: 1 in the one form that is defined by this term, else 0."""
    return 1.0 if loss_form == "abstract_v2" else 0.0


@dataclass(frozen=True, kw_only=True)
class GapMixtureOptions(MethodOptions):
    """Options of the method `gap_mixture`: the adaptive loss."""

    loss_form: str = param(
        "reconstructed",
        "form of the adaptive loss; the paper's Eq. 10 was lost, all three are reconstructions",
        choices=("reconstructed", "prose", "abstract_v2"),
        source="reconstructed",
        search=("reconstructed", "prose", "abstract_v2"),
        searched_by="form",
    )
    unimodal_weight: float = param(
        1.0, "weight of the unimodal losses", minimum=0.0, search=(0.25, 4.0, "log"), searched_by="weights"
    )
    gap_weight: float = param(
        0.5, "alpha: shrink every gap", minimum=0.0, source="ours", search=(0.05, 5.0, "log"), searched_by="weights"
    )
    shift_weight: float = param(
        0.5,
        "beta: pull imbalanced samples to the balanced center",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    hard_weight: float = param(
        1.0,
        "gamma: extra weight on imbalanced samples",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    balanced_fusion_weight: float = param(
        AUTO,
        "delta: extra fusion weight on balanced samples; `auto` = 1 for abstract_v2, else 0",
        minimum=0.0,
        search=(0.0, 2.0, "linear"),
        searched_by="weights",
    )
    posterior_weighting: str = param(
        "posterior",
        "`none`: both posteriors set to 1 (Table 2); `prior`: the mixture weight for every sample",
        choices=("posterior", "none", "prior"),
        search=("posterior", "none", "prior"),
        searched_by="form",
    )
    posterior_source: str = param(
        "refit",
        "`refit`: each sample's posterior at the latest refit; `current`: the latest mixture evaluated at the current gap",
        choices=("refit", "current"),
    )
    gap_gradient: str = param(
        "both",
        "which modality the gap terms train",
        choices=("both", "weaker"),
        search=("both", "weaker"),
        searched_by="form",
    )
    anneal: str = param(
        "cosine",
        "how the strength of the gap terms decays over stage 2, per epoch",
        choices=("constant", "linear", "cosine", "exponential"),
        search=("constant", "linear", "cosine", "exponential"),
        searched_by="anneal",
    )
    anneal_start: float = param(
        1.0, "strength in the first epoch of stage 2", minimum=0.0, search=(0.5, 2.0, "linear"), searched_by="anneal"
    )
    anneal_end: float = param(
        0.1, "strength at the end of stage 2", minimum=0.0, search=(0.01, 1.0, "log"), searched_by="anneal"
    )

    def __post_init__(self) -> None:
        if self.balanced_fusion_weight == AUTO:
            object.__setattr__(self, "balanced_fusion_weight", balanced_fusion_weight(self.loss_form))


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Checkpoint selection."""

    selection: str = param(
        "last",
        "which checkpoint is evaluated: the last, or the best on validation; validation metrics of both are logged",
        choices=("last", "best_validation"),
    )


@dataclass(frozen=True, kw_only=True)
class RegistryConfig:
    """Model registry."""

    register_as: str | None = param(
        NONE,
        "name under which the final model becomes a new version in MLflow's model registry; a study registers its winner, if new "
        "seeds confirm it, with the alias `champion`",
        machine=True,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of a finished run."""

    run_id: str | None = param(NONE, "id of a finished run (of `warmup`, `adaptive`, `train` or `main`)")
    split: str = param("test", "split to evaluate on", choices=("train", "val", "test"))
    probe: bool = param(
        False,
        "also train a linear classifier on each frozen encoder (on the training split) and evaluate it on the split",
    )


@dataclass(frozen=True, kw_only=True)
class ExploreConfig:
    """Explorer: the samples of a run, to see and to hear."""

    worst: int = param(
        100,
        "samples of each split, the most suspect, whose pictures and sounds are in `explorer.html`; 0 = no explorer after training",
        minimum=0,
        machine=True,
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Comparison of two runs."""

    against: str | None = param(NONE, "id of another run on the same samples, to compare with", reference=True)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Report on logged runs."""

    experiment: str | None = param(
        NONE, "names of the experiments whose runs are reported, comma-separated; none = the current one"
    )
    group_by: str | None = param(
        NONE,
        "settings that tell the rows apart, comma-separated; none = those that differ between the runs (never the seed)",
    )
    baseline: str | None = param(
        NONE,
        "rows that others are compared with, as `method=concat,fusion=sum`; none = the control `concat_unimodal`, else `concat`",
    )
    out: str | None = param(NONE, "folder for the files of the report, besides the artifacts of its run")


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """The embedded data set `digits` only."""

    visual_difficulty: float = param(
        AUTO,
        "`digits` only: 1 = small displaced noisy digits (audio dominates), 0 = clean centered (vision dominates)",
        minimum=0.0,
        maximum=1.0,
        source="calibrated, CHANGELOG",
        in_digest=True,
    )


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Deliberate corruption of the training split."""

    corruption: float = param(
        AUTO,
        "share of the training samples that are deliberately corrupted; which ones is known, and how well they are found is scored",
        minimum=0.0,
        maximum=0.5,
        in_digest=True,
    )
    corruption_kind: str = param(
        "mixed",
        "`noise`; `blank` (silence, black pictures, zeros); `other` (another sample's, of another class); `mismatch` (the same, "
        "exchanged among the corrupted); `label` (wrong labels); `mixed` = noise, blank (not of pictures) and other in turn",
        choices=("mixed", "noise", "blank", "other", "mismatch", "label"),
        in_digest=True,
    )
    corruption_modality: str = param(
        "all", "the corrupted modality; `all` = each in an equal share of the samples, one per sample", in_digest=True
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All parameters of a run, in groups.

    After ``resolve`` only parameters marked ``machine`` can be ``auto``; ``None`` stands for ``none``. A group derived from
    ``MethodOptions`` contains the options of the method of the same name.
    """

    data: DataConfig
    input: InputConfig
    prepare: PrepareConfig
    model: ModelConfig
    optimization: OptimizationConfig
    run: RunConfig
    warmup: WarmupConfig
    start: StartConfig
    method: MethodConfig
    train: TrainConfig
    stage: StageConfig
    adaptive: AdaptiveConfig
    gap_mixture: GapMixtureOptions
    selection: SelectionConfig
    registry: RegistryConfig
    evaluate: EvaluateConfig
    explore: ExploreConfig
    compare: CompareConfig
    report: ReportConfig
    corruption: CorruptionConfig
    digits: DigitsConfig

    def values(self) -> dict[str, Any]:
        """Return every value by parameter name, in the order of declaration."""
        return {name: getattr(getattr(self, option.group), name) for name, option in options().items()}

    def replace(self, **changes: Any) -> Config:
        """Return a copy with some values changed, by parameter name."""
        return Config.of(self.values() | changes)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Config:
        """Build from values by parameter name, without resolving or checking them; raises KeyError for an unknown name."""
        grouped: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in values.items():
            grouped[options()[name].group][name] = value
        return cls(**{group: GROUPS[group](**members) for group, members in grouped.items()})


GROUPS: dict[str, type] = get_type_hints(Config)
"""Field of ``Config`` -> its dataclass; the first line of its docstring is the group's title."""


_EVERY_STAGE = ("data", "input", "corruption", "digits", "model", "optimization", "run")
_AFTER_WARMUP = ("stage", "selection", "registry", "explore")

STAGES: dict[str, tuple[str, ...]] = {
    "main": (*_EVERY_STAGE, "warmup", "method", *_AFTER_WARMUP, "adaptive", "gap_mixture"),
    "warmup": (*_EVERY_STAGE, "warmup"),
    "adaptive": (*_EVERY_STAGE, "start", *_AFTER_WARMUP, "adaptive", "gap_mixture"),
    "train": (*_EVERY_STAGE, "start", "method", "train", *_AFTER_WARMUP),
    "study": (
        *_EVERY_STAGE,
        "warmup",
        "start",
        "method",
        "train",
        "stage",
        "selection",
        "registry",
        "adaptive",
        "gap_mixture",
    ),
}
"""Kind of training run -> groups of parameters that apply to it: its command accepts them and its runs record them."""


@cache
def options() -> Mapping[str, Option]:
    """Return every parameter of a run by name, in the order of declaration."""
    return {name: option for group, members in GROUPS.items() for name, option in declared_in(members, group).items()}


def stage_options(stage: str) -> dict[str, Option]:
    """Return the parameters that apply to a kind of training run (key of ``STAGES``), by name."""
    return {name: option for name, option in options().items() if option.group in STAGES[stage]}


def warmup_parameters() -> list[str]:
    """Return the parameters that determine the result of a warm-up run.

    These are all that apply to it, except those that only say where to run, refer to something else, or are covered by the data
    digest. A parameter declared without these flags is included.
    """
    return [
        name
        for name, option in stage_options("warmup").items()
        if not (option.machine or option.reference or option.in_digest)
    ]
