"""Every parameter of a run, declared once: name, type, default, choices, range, help, source, search range, and facts as flags.

Command line, ``MLproject`` (by a test), glossary and search spaces follow from these declarations. Nothing here imports torch.

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
"""The paper's method, which stage 2 trains unless another one is given."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data set and split."""

    dataset: str = param(
        "digits",
        "`digits` (embedded), `cremad`, `ave`, `kinetics_sounds`, or the path of a manifest.csv",
        in_digest=True,
        stored=True,
    )
    modalities: str = param(
        "audio,visual",
        "comma-separated columns of the manifest; the first is the leading one of the gap",
        network_input=True,
        stored=True,
    )
    train_fraction: float = param(
        AUTO,
        "stratified share of the training split that is used",
        minimum=0.0,
        exclusive=True,
        maximum=1.0,
        network_input=True,
    )
    protocol: str = param(
        "published",
        "which split: the published lists, or `speaker` = disjoint speakers (`cremad` only)",
        choices=("published", "speaker"),
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
    data_dir: str = param(AUTO, "folder of prepared data; `auto` = the user's cache folder", machine=True)


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """From files to what the network sees."""

    recipe: str = param(
        AUTO,
        "features of sounds: `stft257` (OGM-GE), `fbank128` (Kaldi's, as MLA), `logmel64` (ours); `embedded` = digits' own",
        choices=("stft257", "fbank128", "logmel64", "embedded"),
        source="OGM-GE_CVPR2022@343dc1d, MLA@ab6c184",
        in_digest=True,
        stored=True,
    )
    clip_seconds: float = param(
        AUTO,
        "length of every sound, seconds (OGM-GE: 3 on CREMA-D; LFM: 20; fbank scripts: 10.24)",
        minimum=0.0,
        exclusive=True,
        in_digest=True,
        stored=True,
    )
    audio_fit: str = param(
        AUTO,
        "sounds that are shorter: `tile` repeats them (OGM-GE), `pad` appends silence (MLA)",
        choices=("tile", "pad"),
        in_digest=True,
        stored=True,
    )
    resampler: str = param(
        "soxr_hq",
        "`soxr_hq` is librosa's since 0.10; `kaiser_best` its older one, which the official codes ran with (needs resampy)",
        choices=("soxr_hq", "soxr_vhq", "polyphase", "kaiser_best"),
        in_digest=True,
        stored=True,
    )
    audio_normalization: str = param(
        AUTO,
        "of features: `none` (OGM-GE, MLA), `sample` (z-score of each, PMR), `audioset` (constants, OGM-GE's Kinetics "
        "script), `train` (mean and deviation of the training split)",
        choices=("none", "sample", "audioset", "train"),
        stored=True,
        network_input=True,
    )
    image_size: int = param(
        AUTO, "edge of the pictures that the network sees, pixels", minimum=8, stored=True, network_input=True
    )
    frames: int = param(
        AUTO,
        "frames of a video that the network sees (OGM-GE: 1 on CREMA-D, 3 elsewhere)",
        minimum=1,
        network_input=True,
    )
    frames_per_second: float = param(
        AUTO, "rate at which frames are stored, per second", minimum=0.0, exclusive=True, in_digest=True, stored=True
    )
    frame_choice: str = param(
        AUTO,
        "`random` in each segment, the middle in evaluation (MMPareto, BalanceBenchmark); `segment_start` (OGM-GE on AVE, "
        "MLA); `first` (what OGM-GE's CREMA-D loader does)",
        choices=("random", "segment_start", "first"),
        network_input=True,
    )
    augment: str = param(
        AUTO,
        "of training frames: `resized_crop_flip` (all official codes), `crop_flip` (ours, cheaper), `none`",
        choices=("resized_crop_flip", "crop_flip", "none"),
        stored=True,
        network_input=True,
    )
    visual_normalization: str = param(
        AUTO,
        "of pictures: `imagenet` constants (all official codes) or `train` (mean and deviation of the training split)",
        choices=("imagenet", "train"),
        network_input=True,
    )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Decoding a raw download."""

    source: str | None = param(
        NONE, "folder of the raw download (not needed for a manifest, which names its files)", reference=True
    )
    workers: int = param(
        AUTO, "decoding processes; `auto` = one for each core, fewer for small sets", minimum=1, machine=True
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network."""

    encoder: str = param(
        AUTO,
        "one encoder of this kind per modality",
        choices=("resnet18", "resnet_narrow"),
        source=f"{PAPER}, Sec. 4.2: ResNet-18 from scratch",
        network_input=True,
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
        "`step` counts epochs over both stages; `cosine` falls to 0 over stage 2, stage 1 stays constant",
        choices=("constant", "step", "cosine"),
    )
    learning_rate_hold: int = param(
        0, "`cosine`: epochs, counted over both stages, at the initial rate before it falls", minimum=0
    )
    learning_rate_step: int = param(AUTO, "`step`: epochs between two falls", minimum=1)
    learning_rate_decay: float = param(AUTO, "`step`: factor of each fall", minimum=0.0, exclusive=True, maximum=1.0)
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
        source="official codes of the comparison methods",
        search=(0.00001, 0.01, "log"),
        searched_by="optimizer",
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Seed, device, preset, resuming."""

    seed: int = param(0, "initial weights and order of samples", minimum=0)
    device: str = param(AUTO, "`auto`, `cpu`, `cuda` or `cuda:N`", machine=True, one_process=True)
    precision: str = param("float32", "of the forward pass", choices=("float32", "bfloat16", "float16"))
    deterministic: bool = param(
        False,
        "CUDA: the same bits in every run on the same machine, by deterministic kernels alone, which are slower; CPUs repeat "
        "theirs anyway",
    )
    preset: str = param(
        AUTO,
        "`auto` (the data set's), `quick` (a whole run in seconds), or the path of a YAML file",
        machine=True,
        reference=True,
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

    method: str = param(ADAPTIVE_METHOD, "a name of `METHODS`, see docs/methods.md")
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
        "id of the warm-up run; `none` = the newest finished one of the same fingerprint (`train`: where the method needs "
        "one, else a start from scratch; methods that hold samples back take none)",
        reference=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A method in one stage."""

    epochs: int = param(AUTO, "length of the stage", minimum=1, may_grow=True)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stage after the warm-up, whatever its method."""

    refit_every: int = param(
        AUTO, "epochs between two surveys with a mixture fit", minimum=1, search=(1, 6, "linear"), searched_by="anneal"
    )
    mixture: str = param(
        "two",
        "two Gaussians on the gap, on its absolute value, or three",
        choices=("two", "two_absolute", "three"),
        source=f"{PAPER}, Eq. 8 (`two`)",
        search=("two", "two_absolute", "three"),
        searched_by="form",
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
        "initial rate of stage 2; `auto` = learning_rate",
        minimum=0.0,
        exclusive=True,
        search=(0.0003, 0.1, "log"),
        searched_by="optimizer",
    )


def balanced_fusion_weight(loss_form: str) -> float:
    """What ``balanced_fusion_weight=auto`` stands for: 1 in the one form that is defined by that term."""
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
        "gamma: heavier weight on imbalanced samples",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    balanced_fusion_weight: float = param(
        AUTO,
        "delta: larger fusion weight on balanced samples; `auto` = 0, and 1 under abstract_v2",
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
        "`refit`: the latest refit's table, by sample; `current`: the latest mixture at the current gap",
        choices=("refit", "current"),
    )
    gap_gradient: str = param(
        "both",
        "which modality the gap terms move",
        choices=("both", "weaker"),
        search=("both", "weaker"),
        searched_by="form",
    )
    anneal: str = param(
        "cosine",
        "how the gap terms' strength falls over stage 2, per epoch",
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
    """Which weights are the result."""

    selection: str = param(
        "last",
        "which checkpoint is evaluated: the last, or the best on validation; both are logged on validation",
        choices=("last", "best_validation"),
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation of a finished run."""

    run_id: str | None = param(NONE, "a finished run (of `warmup`, `adaptive` or `main`)")
    split: str = param("test", "which split", choices=("train", "val", "test"))
    probe: bool = param(
        False, "also train a linear classifier on each frozen encoder (on the training split) and score it on the split"
    )


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
    corruption: float = param(
        0.1,
        "`digits` only: share of training samples corrupted in one modality on purpose, truth kept",
        minimum=0.0,
        maximum=0.5,
        in_digest=True,
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All parameters of a run, by who needs them. After ``resolve`` no value is ``auto``; ``None`` stands for ``none``.

    A group that derives from ``MethodOptions`` holds the options of the method that is called like it.
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
    evaluate: EvaluateConfig
    digits: DigitsConfig

    def values(self) -> dict[str, Any]:
        """Every value by parameter name, in the order of declaration."""
        return {name: getattr(getattr(self, option.group), name) for name, option in options().items()}

    def replace(self, **changes: Any) -> Config:
        """The same configuration with other values, by parameter name."""
        return Config.of(self.values() | changes)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Config:
        """From values by parameter name; raises KeyError for an unknown name. Nothing is resolved or checked."""
        grouped: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        for name, value in values.items():
            grouped[options()[name].group][name] = value
        return cls(**{group: GROUPS[group](**members) for group, members in grouped.items()})


GROUPS: dict[str, type] = get_type_hints(Config)
"""Field of ``Config`` -> its dataclass; the first line of its docstring is the group's title."""


_EVERY_STAGE = ("data", "input", "digits", "model", "optimization", "run")
_AFTER_WARMUP = ("stage", "selection")

STAGES: dict[str, tuple[str, ...]] = {
    "main": (*_EVERY_STAGE, "warmup", "method", *_AFTER_WARMUP, "adaptive", "gap_mixture"),
    "warmup": (*_EVERY_STAGE, "warmup"),
    "adaptive": (*_EVERY_STAGE, "start", *_AFTER_WARMUP, "adaptive", "gap_mixture"),
    "train": (*_EVERY_STAGE, "start", "method", "train", *_AFTER_WARMUP),
    "study": (*_EVERY_STAGE, "warmup", "start", "method", "train", *_AFTER_WARMUP, "adaptive", "gap_mixture"),
}
"""Kind of training run -> the groups of parameters that apply to it: what its command takes and its runs record."""


@cache
def options() -> Mapping[str, Option]:
    """Every parameter of a run by name, in the order of declaration."""
    return {name: option for group, members in GROUPS.items() for name, option in declared_in(members, group).items()}


def stage_options(stage: str) -> dict[str, Option]:
    """The parameters that apply to a kind of training run (key of ``STAGES``), by name."""
    return {name: option for name, option in options().items() if option.group in STAGES[stage]}


def warmup_parameters() -> list[str]:
    """The parameters that decide what a warm-up run learns.

    All that apply to it but those that only say where to work, name something else, or are covered by the digest of the data: a
    parameter that is declared without these flags counts.
    """
    return [
        name
        for name, option in stage_options("warmup").items()
        if not (option.machine or option.reference or option.in_digest)
    ]
