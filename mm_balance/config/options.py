"""Every parameter of the program, declared once: name, type, default, choices, range, help, source, search range.

The command line, ``MLproject``, the tables of README and (later) the search spaces of studies are generated from
``Config`` or tested equal to it. Nothing here imports torch.

MLflow passes every declared default on the command line, so a program cannot tell a default from a choice. Hence two
words: ``auto`` (the preset of the data set decides) and ``none`` (unset). Only parameters whose default is ``auto`` may
be set by a preset.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
NONE = "none"

PAPER = "arXiv 2510.21797v1"


@dataclass(frozen=True)
class Option:
    """One parameter as the user sees it.

    Attributes:
        name: its name everywhere.
        kind: ``int``, ``float``, ``bool`` or ``str``: the type of a resolved value.
        default: the declared default: a value of ``kind``, ``"auto"`` or ``"none"``.
        group: which part of the program it belongs to (see ``ENTRY_POINTS``).
        help: one sentence.
        choices: the allowed words, empty = any.
        minimum: least allowed number, or None.
        exclusive: whether ``minimum`` itself is excluded.
        maximum: greatest allowed number, or None.
        source: where the default comes from.
        search: range of a study, ``(low, high, "log" or "linear")`` or a tuple of choices; None = none is declared.
        searched_by: the named search (see ``mm_balance.config.search``) that it belongs to; empty = none.
        of_the_machine: whether it says where and how to work, not what to train: it may differ between two commands for the same run.
        may_grow: whether a run may be continued with a greater value.
    """

    name: str
    kind: type
    default: Any
    group: str
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    exclusive: bool = False
    maximum: float | None = None
    source: str = ""
    search: tuple | None = None
    searched_by: str = ""
    of_the_machine: bool = False
    may_grow: bool = False

    @property
    def by_preset(self) -> bool:
        """Whether a preset may set it."""
        return self.default == AUTO

    @property
    def may_be_none(self) -> bool:
        """Whether ``none`` (unset) is allowed."""
        return self.default == NONE


def declare(default: Any, *, group: str, help: str, **extra: Any) -> Any:
    """A field of a dataclass of parameters; ``extra`` as of ``Option``."""
    return field(default=default, metadata={"group": group, "help": help, **extra})


@dataclass(frozen=True, kw_only=True)
class Config:
    """All parameters of a run. After ``resolve`` no field is ``auto``; ``None`` stands for ``none``."""

    dataset: str = declare(
        "digits",
        group="data",
        help="`digits` (embedded), `cremad`, `ave`, `kinetics_sounds`, or the path of a manifest.csv",
    )
    data_dir: str = declare(
        AUTO, group="data", help="folder of prepared data; `auto` = the user's cache folder", of_the_machine=True
    )
    preset: str = declare(
        AUTO,
        group="data",
        help="`auto` (the data set's), `quick` (a whole run in seconds), or the path of a YAML file",
        of_the_machine=True,
    )
    modalities: str = declare(
        "audio,visual",
        group="data",
        help="comma-separated columns of the manifest; the first is the leading one of the gap",
    )
    visual_difficulty: float = declare(
        AUTO,
        group="data",
        help="`digits` only: 1 = small displaced noisy digits (audio dominates), 0 = clean centred (vision dominates)",
        minimum=0.0,
        maximum=1.0,
        source="calibrated, CHANGELOG",
    )
    corruption: float = declare(
        0.1,
        group="data",
        help="`digits` only: share of training samples corrupted in one modality on purpose, truth kept",
        minimum=0.0,
        maximum=0.5,
    )
    train_fraction: float = declare(
        AUTO,
        group="data",
        help="stratified share of the training split that is used",
        minimum=0.0,
        exclusive=True,
        maximum=1.0,
    )
    protocol: str = declare(
        "published",
        group="data",
        help="which split: the published lists, or `speaker` = disjoint speakers (`cremad` only)",
        choices=("published", "speaker"),
    )
    recipe: str = declare(
        AUTO,
        group="data",
        help="features of sounds: `stft257` (OGM-GE), `fbank128` (Kaldi's, as MLA), `logmel64` (ours); `embedded` = digits' own",
        choices=("stft257", "fbank128", "logmel64", "embedded"),
        source="OGM-GE_CVPR2022@343dc1d, MLA@ab6c184",
    )
    clip_seconds: float = declare(
        AUTO,
        group="data",
        help="length of every sound, seconds (OGM-GE: 3 on CREMA-D; LFM: 20; fbank scripts: 10.24)",
        minimum=0.0,
        exclusive=True,
    )
    audio_fit: str = declare(
        AUTO,
        group="data",
        help="sounds that are shorter: `tile` repeats them (OGM-GE), `pad` appends silence (MLA)",
        choices=("tile", "pad"),
    )
    resampler: str = declare(
        "soxr_hq",
        group="data",
        help="`soxr_hq` is librosa's since 0.10; `kaiser_best` its older one, which the official codes ran with (needs resampy)",
        choices=("soxr_hq", "soxr_vhq", "polyphase", "kaiser_best"),
    )
    audio_normalization: str = declare(
        AUTO,
        group="data",
        help="of features: `none` (OGM-GE, MLA), `sample` (z-score of each, PMR), `audioset` (constants, OGM-GE's Kinetics "
        "script), `train` (mean and deviation of the training split)",
        choices=("none", "sample", "audioset", "train"),
    )
    image_size: int = declare(AUTO, group="data", help="edge of the pictures that the network sees, pixels", minimum=8)
    frames: int = declare(
        AUTO,
        group="data",
        help="frames of a video that the network sees (OGM-GE: 1 on CREMA-D, 3 elsewhere)",
        minimum=1,
    )
    frames_per_second: float = declare(
        AUTO, group="data", help="rate at which frames are stored, per second", minimum=0.0, exclusive=True
    )
    frame_choice: str = declare(
        AUTO,
        group="data",
        help="`random` in each segment, the middle in evaluation (MMPareto, BalanceBenchmark); `segment_start` (OGM-GE on AVE, "
        "MLA); `first` (what OGM-GE's CREMA-D loader does)",
        choices=("random", "segment_start", "first"),
    )
    augment: str = declare(
        AUTO,
        group="data",
        help="of training frames: `resized_crop_flip` (all official codes), `crop_flip` (ours, cheaper), `none`",
        choices=("resized_crop_flip", "crop_flip", "none"),
    )
    visual_normalization: str = declare(
        AUTO,
        group="data",
        help="of pictures: `imagenet` constants (all official codes) or `train` (mean and deviation of the training split)",
        choices=("imagenet", "train"),
    )
    on_error: str = declare(
        "fail",
        group="data",
        help="bad files and rows: `fail` stops before training, `skip` drops and counts them",
        choices=("fail", "skip"),
    )

    source: str | None = declare(
        NONE, group="prepare", help="folder of the raw download (not needed for a manifest, which names its files)"
    )
    workers: int = declare(
        AUTO,
        group="prepare",
        help="decoding processes; `auto` = one for each core, fewer for small sets",
        minimum=1,
        of_the_machine=True,
    )

    encoder: str = declare(
        AUTO,
        group="model",
        help="one encoder of this kind per modality",
        choices=("resnet18", "resnet_narrow"),
        source=f"{PAPER}, Sec. 4.2: ResNet-18 from scratch",
    )
    fusion: str = declare(
        "concat",
        group="model",
        help="how features become fused logits; concat and sum have exact unimodal logits",
        choices=("concat", "sum", "film", "gated"),
        source=f"{PAPER}, Eq. 1",
    )

    batch_size: int = declare(
        AUTO,
        group="optimization",
        help="samples per update",
        minimum=2,
        search=(16, 32, 64, 128),
        searched_by="optimizer",
    )
    learning_rate: float = declare(
        AUTO,
        group="optimization",
        help="initial learning rate",
        minimum=0.0,
        exclusive=True,
        search=(0.0003, 0.1, "log"),
        searched_by="optimizer",
    )
    learning_rate_schedule: str = declare(
        AUTO,
        group="optimization",
        help="`step` counts epochs over both stages; `cosine` falls to 0 over stage 2, stage 1 stays constant",
        choices=("constant", "step", "cosine"),
    )
    learning_rate_hold: int = declare(
        0,
        group="optimization",
        help="`cosine`: epochs, counted over both stages, at the initial rate before it falls",
        minimum=0,
    )
    learning_rate_step: int = declare(AUTO, group="optimization", help="`step`: epochs between two falls", minimum=1)
    learning_rate_decay: float = declare(
        AUTO, group="optimization", help="`step`: factor of each fall", minimum=0.0, exclusive=True, maximum=1.0
    )
    optimizer: str = declare(
        "sgd",
        group="optimization",
        help="optimiser of both stages",
        choices=("sgd", "adam"),
        source=f"{PAPER}, Sec. 4.2",
    )
    momentum: float = declare(
        0.9,
        group="optimization",
        help="`sgd` only",
        minimum=0.0,
        maximum=0.9999,
        source=f"{PAPER}, Sec. 4.2",
        search=(0.0, 0.5, 0.9, 0.95),
        searched_by="optimizer",
    )
    weight_decay: float = declare(
        0.0001,
        group="optimization",
        help="L2 penalty",
        minimum=0.0,
        source="official codes of the comparison methods",
        search=(0.00001, 0.01, "log"),
        searched_by="optimizer",
    )

    selection: str = declare(
        "last",
        group="run",
        help="which checkpoint is evaluated: the last, or the best on validation; both are logged on validation",
        choices=("last", "best_validation"),
    )
    seed: int = declare(0, group="run", help="initial weights and order of samples", minimum=0)
    device: str = declare(AUTO, group="run", help="`auto`, `cpu`, `cuda` or `cuda:N`", of_the_machine=True)
    precision: str = declare(
        "float32", group="run", help="of the forward pass", choices=("float32", "bfloat16", "float16")
    )
    deterministic: bool = declare(
        False,
        group="run",
        help="CUDA: the same bits in every run on the same machine, by deterministic kernels alone, which are slower; CPUs repeat "
        "theirs anyway",
    )
    resume_run: str | None = declare(NONE, group="run", help="id of an unfinished run to continue", of_the_machine=True)

    warmup_epochs: int = declare(AUTO, group="warmup", help="length of stage 1", minimum=1, may_grow=True)
    warmup_unimodal_weight: float = declare(
        AUTO,
        group="warmup",
        help="weight of the unimodal losses in stage 1 (Eq. 7, reconstructed); 0 = plain joint training",
        minimum=0.0,
    )

    warmup_run: str | None = declare(
        NONE,
        group="adaptive",
        help="id of the warm-up run; `none` = the newest finished one of the same fingerprint (`train`: where the method needs "
        "one, else a start from scratch; methods that hold samples back take none)",
    )
    method: str = declare("concat", group="train", help="a name of `METHODS`, see docs/methods.md")
    method_options: str | None = declare(
        NONE,
        group="train",
        help="the method's own options, `name=value,name=value`; `python -m entrypoints.train --method NAME --help` lists them",
    )
    epochs: int = declare(AUTO, group="train", help="length of the stage", minimum=1, may_grow=True)

    adaptive_epochs: int = declare(AUTO, group="stage2", help="length of stage 2", minimum=1, may_grow=True)
    refit_every: int = declare(
        AUTO,
        group="stage2",
        help="epochs between two surveys with a mixture fit",
        minimum=1,
        search=(1, 6, "linear"),
        searched_by="anneal",
    )
    adaptive_learning_rate: float = declare(
        AUTO,
        group="stage2",
        help="initial rate of stage 2; `auto` = learning_rate",
        minimum=0.0,
        exclusive=True,
        search=(0.0003, 0.1, "log"),
        searched_by="optimizer",
    )
    optimizer_state: str = declare(
        "reset",
        group="stage2",
        help="optimiser state at the start of stage 2",
        choices=("reset", "keep"),
        source=f"{PAPER}, Table 3",
        search=("reset", "keep"),
        searched_by="optimizer",
    )
    mixture: str = declare(
        "two",
        group="stage2",
        help="two Gaussians on the gap, on its absolute value, or three",
        choices=("two", "two_absolute", "three"),
        source=f"{PAPER}, Eq. 8 (`two`)",
        search=("two", "two_absolute", "three"),
        searched_by="form",
    )
    loss_form: str = declare(
        "reconstructed",
        group="stage2",
        help="form of the adaptive loss; the paper's Eq. 10 was lost, all three are reconstructions",
        choices=("reconstructed", "prose", "abstract_v2"),
        source="reconstructed",
        search=("reconstructed", "prose", "abstract_v2"),
        searched_by="form",
    )
    unimodal_weight: float = declare(
        1.0,
        group="stage2",
        help="weight of the unimodal losses",
        minimum=0.0,
        search=(0.25, 4.0, "log"),
        searched_by="weights",
    )
    gap_weight: float = declare(
        0.5,
        group="stage2",
        help="alpha: shrink every gap",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    shift_weight: float = declare(
        0.5,
        group="stage2",
        help="beta: pull imbalanced samples to the balanced centre",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    hard_weight: float = declare(
        1.0,
        group="stage2",
        help="gamma: heavier weight on imbalanced samples",
        minimum=0.0,
        source="ours",
        search=(0.05, 5.0, "log"),
        searched_by="weights",
    )
    balanced_fusion_weight: float = declare(
        AUTO,
        group="stage2",
        help="delta: larger fusion weight on balanced samples; `auto` = 0, and 1 under abstract_v2",
        minimum=0.0,
        search=(0.0, 2.0, "linear"),
        searched_by="weights",
    )
    posterior_weighting: str = declare(
        "posterior",
        group="stage2",
        help="`none`: both posteriors set to 1 (Table 2); `prior`: the mixture weight for every sample",
        choices=("posterior", "none", "prior"),
        search=("posterior", "none", "prior"),
        searched_by="form",
    )
    posterior_source: str = declare(
        "refit",
        group="stage2",
        help="`refit`: the latest refit's table, by sample; `current`: the latest mixture at the current gap",
        choices=("refit", "current"),
    )
    gap_gradient: str = declare(
        "both",
        group="stage2",
        help="which modality the gap terms move",
        choices=("both", "weaker"),
        search=("both", "weaker"),
        searched_by="form",
    )
    anneal: str = declare(
        "cosine",
        group="stage2",
        help="how the gap terms' strength falls over stage 2, per epoch",
        choices=("constant", "linear", "cosine", "exponential"),
        search=("constant", "linear", "cosine", "exponential"),
        searched_by="anneal",
    )
    anneal_start: float = declare(
        1.0,
        group="stage2",
        help="strength in the first epoch of stage 2",
        minimum=0.0,
        search=(0.5, 2.0, "linear"),
        searched_by="anneal",
    )
    anneal_end: float = declare(
        0.1,
        group="stage2",
        help="strength at the end of stage 2",
        minimum=0.0,
        search=(0.01, 1.0, "log"),
        searched_by="anneal",
    )

    run_id: str | None = declare(NONE, group="evaluate", help="a finished run (of `warmup`, `adaptive` or `main`)")
    split: str = declare("test", group="evaluate", help="which split", choices=("train", "val", "test"))
    probe: bool = declare(
        False,
        group="evaluate",
        help="also train a linear classifier on each frozen encoder (on the training split) and score it on the split",
    )


_KINDS = {"bool": bool, "int": int, "float": float, "str": str, "str | None": str}


def declared_in(parameters: Any) -> dict[str, Option]:
    """The parameters that a dataclass declares, by name, in their order."""
    return {
        item.name: Option(name=item.name, kind=_KINDS[str(item.type)], default=item.default, **item.metadata)
        for item in dataclasses.fields(parameters)
    }


def options() -> dict[str, Option]:
    """Every parameter of a run by name, in the order of declaration."""
    return declared_in(Config)


def option_of(name: str) -> Option:
    """The parameter called ``name``. Raises KeyError for an unknown one."""
    return options()[name]
