"""Deliberate corruption of training samples, so that what finds broken clips can be scored on anyone's data.

Only the training split is corrupted; validation and test stay as they are. Everything random is drawn from the data seed, so all
runs get the same corruption, whatever their own seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mm_balance.config import InputConfig
from mm_balance.data.dataset import MultimodalData, Replacement
from mm_balance.data.features import AUDIO_RECIPES
from mm_balance.data.sound import z_score
from mm_balance.errors import UserError
from mm_balance.functional.labels import strata
from mm_balance.input_kinds import IMAGE, INPUT_KINDS, SEQUENCE, SOUND, VECTOR
from mm_balance.types import InputSpec

ALL = "all"
LABEL = "label"
"""Stands in place of a modality for samples whose label is wrong."""
MIXED = "mixed"
MIXED_KINDS: Mapping[str, tuple[str, ...]] = {
    SOUND: ("noise", "blank", "other"),
    IMAGE: ("noise", "other"),
    VECTOR: ("noise", "blank", "other"),
    SEQUENCE: ("noise", "blank", "other"),
}
"""What ``mixed`` stands for, in turn, by kind of input; chosen for `digits` and kept for all."""
NOISE_CLIPS = 16
"""Different recordings of noise that stand in for broken files."""
NOISE_LOUDNESS = 0.1
"""Root mean square of sounds that are noise, full scale 1."""


@dataclass(frozen=True)
class Corruption:
    """What to corrupt.

    Attributes:
        share: fraction of the training samples, in [0, 0.5].
        kind: ``noise``: white noise, of a vector or sequence with the mean and standard deviation of each feature; ``blank``: digital
            silence, a black picture, zeros; ``other``: that of another training sample, of
            another class; ``mismatch``: the same, but the corrupted ones exchange theirs, so that each still occurs once;
            ``label``: a wrong label; ``mixed``: see ``MIXED_KINDS``.
        modality: the modality to corrupt; ``all`` = an equal share of the samples in each, one modality per sample. Of no effect on
            ``label``.
    """

    share: float
    kind: str = MIXED
    modality: str = ALL

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 0.5:
            raise UserError(f"corruption={self.share}: give a number from 0 to 0.5")

    def text(self) -> str:
        """Describe it in a few words."""
        where = "" if self.modality == ALL or self.kind == LABEL else f" of {self.modality}"
        return f"corruption {self.share:g}" + ("" if self.kind == MIXED and not where else f" ({self.kind}{where})")


@dataclass(frozen=True)
class Plan:
    """The corruption of a training split.

    Attributes:
        modality: per sample, the corrupted modality or ``label``; ``""`` = clean.
        kind: per sample, the kind; ``""`` = clean.
        sources: modality -> ``(samples,)`` int64, the sample whose input each one gets.
        labels: those of training, with the wrong ones, of the form that was given.
    """

    modality: NDArray[np.str_]
    kind: NDArray[np.str_]
    sources: dict[str, NDArray[np.int64]]
    labels: NDArray

    def where(self, modality: str, kind: str) -> NDArray[np.bool_]:
        """Tell which samples have this corruption."""
        return (self.modality == modality) & (self.kind == kind)


def plan_corruption(labels: NDArray, inputs: Mapping[str, str], corruption: Corruption, *, seed: int) -> Plan:
    """Choose what happens to which training sample.

    Exactly ``round(share * samples)`` are corrupted, evenly over modalities (the first ones get what is left over), over kinds to
    within one, and over classes to within one or two.

    Args:
        labels: ``(samples,)`` class numbers of the training split; or multi-hot, ``(samples, classes)`` bool.
        inputs: modality -> kind of input, a key of ``INPUT_KINDS``.
        corruption: what to corrupt.
        seed: data seed.

    Raises:
        UserError: no such modality.
    """
    if corruption.modality != ALL and corruption.modality not in inputs:
        raise UserError(
            f"corruption_modality={corruption.modality}: the data have the modalities {', '.join(inputs)}; give one, or all"
        )
    plan = Plan(
        np.full(len(labels), "", dtype=object),
        np.full(len(labels), "", dtype=object),
        {name: np.arange(len(labels)) for name in inputs},
        labels.copy(),
    )
    chosen = _spread_over_classes(_strata(labels), corruption.share, seed)
    if corruption.kind == LABEL:
        plan.modality[chosen] = plan.kind[chosen] = LABEL
        plan.labels[chosen] = labels[_of_another_class(labels, chosen, seed, LABEL)]
        return plan
    names = list(inputs) if corruption.modality == ALL else [corruption.modality]
    for number, name in enumerate(names):
        members = chosen[number :: len(names)]
        kinds = MIXED_KINDS[inputs[name]] if corruption.kind == MIXED else (corruption.kind,)
        plan.modality[members] = name
        plan.kind[members] = [kinds[rank % len(kinds)] for rank in range(len(members))]
        others = np.flatnonzero(plan.where(name, "other"))
        plan.sources[name][others] = _of_another_class(labels, others, seed, name)
        exchanged = np.flatnonzero(plan.where(name, "mismatch"))
        plan.sources[name][exchanged] = _exchanged(labels, exchanged, seed, name)
    return plan


def generator_for(seed: int, purpose: str) -> np.random.Generator:
    """Return a separate random stream per purpose, so that changing one does not affect the others."""
    return np.random.default_rng([seed, *purpose.encode()])


def _spread_over_classes(labels: NDArray, share: float, seed: int) -> NDArray[np.int64]:
    """Return the samples to corrupt, ordered by class."""
    shuffled = generator_for(seed, "corruption").permutation(len(labels))
    # Round-robin over the classes: any prefix of this order is spread evenly over them.
    rank_in_class = np.zeros(len(shuffled), dtype=np.int64)
    for label in np.unique(labels):
        members = labels[shuffled] == label
        rank_in_class[members] = np.arange(members.sum())
    chosen = shuffled[np.argsort(rank_in_class, kind="stable")][: round(share * len(labels))]
    return chosen[np.argsort(labels[chosen], kind="stable")]


def _of_another_class(labels: NDArray, replaced: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    """Return, for each replaced sample, a random sample of another class: of several, one without a common class if there is any."""
    generator = generator_for(seed, f"{purpose} donors")
    return np.array([generator.choice(_others(labels, index)) for index in replaced], dtype=np.int64).reshape(-1)


def _others(labels: NDArray, index: np.int64) -> NDArray[np.int64]:
    """Return the samples of another class than that of ``index``, or with other classes."""
    if labels.ndim == 1:
        return np.flatnonzero(labels != labels[index])
    disjoint = np.flatnonzero(~(labels & labels[index]).any(axis=1))
    return disjoint if len(disjoint) else np.flatnonzero((labels != labels[index]).any(axis=1))


def _have_common_class(labels: NDArray, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return, for pairs of samples, whether they have a class in common."""
    return labels[first] == labels[second] if labels.ndim == 1 else (labels[first] & labels[second]).any(axis=1)


def _strata(labels: NDArray) -> NDArray[np.int64]:
    return strata(torch.from_numpy(labels)).numpy()


def _exchanged(labels: NDArray, members: NDArray[np.int64], seed: int, purpose: str) -> NDArray[np.int64]:
    """Return the members in another order, in which none stands where one of its class was.

    Impossible if one class has more than half of the members; those left over get a random sample of another class.
    """
    generator = generator_for(seed, f"{purpose} exchange")
    shuffled = generator.permutation(members)
    groups = _strata(labels)
    by_class = shuffled[np.argsort(groups[shuffled], kind="stable")]
    largest = np.bincount(groups[by_class]).max(initial=0)
    source = np.empty(len(labels), dtype=np.int64)
    source[by_class] = np.roll(by_class, largest)
    same = members[_have_common_class(labels, source[members], members)]
    source[same] = _of_another_class(labels, same, seed, f"{purpose} exchange")
    return source[members]


def plant(data: MultimodalData, corruption: Corruption, input_config: InputConfig, *, seed: int) -> MultimodalData:
    """Corrupt the training split of a data set; its files, store and arrays stay as they are.

    Args:
        data: the data set.
        corruption: what to corrupt; nothing happens at a share of 0.
        input_config: how files become network inputs: silence and noise pass through the same recipe as any sound.
        seed: data seed.

    Returns:
        The data with the truth in ``Split.corrupted`` and ``Split.corruption_kind`` of the training split, and a digest of its own.

    Raises:
        UserError: no such modality.
    """
    if corruption.share == 0.0:
        return data
    train = data.splits["train"]
    plan = plan_corruption(
        train.labels.numpy(), {name: spec.kind for name, spec in data.specs.items()}, corruption, seed=seed
    )
    in_order = dict.fromkeys(train.inputs, torch.arange(len(train)))
    sources = {name: torch.from_numpy(source) for name, source in plan.sources.items()}
    corrupted = replace(
        train,
        labels=torch.from_numpy(plan.labels),
        corrupted=plan.modality.tolist(),
        corruption_kind=plan.kind.tolist(),
        rows={name: rows[sources[name]] for name, rows in (train.rows or in_order).items()},
        views={name: view.at(sources[name]) for name, view in train.views.items()},
        replacements={
            name: Replacement(_broken(name, data, stored, input_config, seed), _which(plan, name))
            for name, stored in train.inputs.items()
            if (plan.where(name, "noise") | plan.where(name, "blank")).any()
        },
    )
    return data.corrupted_by(corrupted, f"{corruption.text()}, data seed {seed}")


def _which(plan: Plan, modality: str) -> Tensor:
    """Return the row of ``_broken`` that each sample gets, -1 = none."""
    which = np.full(len(plan.kind), -1, dtype=np.int64)
    which[plan.where(modality, "blank")] = 0
    noisy = np.flatnonzero(plan.where(modality, "noise"))
    which[noisy] = 1 + np.arange(len(noisy)) % NOISE_CLIPS
    return torch.from_numpy(which)


def _broken(modality: str, data: MultimodalData, stored: Tensor, input_config: InputConfig, seed: int) -> Tensor:
    """Return a blank clip and ``NOISE_CLIPS`` of noise, ``(1 + NOISE_CLIPS, *stored.shape[1:])``, as the store would have them."""
    spec = data.specs[modality]
    generator = generator_for(seed, f"{modality} noise")
    shape = (NOISE_CLIPS, *stored.shape[1:])
    if stored.dtype == torch.uint8:
        noise = torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
        return torch.cat([torch.zeros_like(noise[:1]), noise])
    if spec.kind in (VECTOR, SEQUENCE) or data.folder is None:
        # Arrays: nothing is known of them but their statistics.
        noise = _like_training(spec, torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)))
        return torch.cat([torch.zeros_like(noise[:1]), noise])
    recipe = AUDIO_RECIPES[input_config.recipe]
    count = recipe.samples(input_config.clip_seconds)
    sounds = NOISE_LOUDNESS * generator.standard_normal((NOISE_CLIPS, count), dtype=np.float32)
    features = [recipe.compute(sound, input_config.clip_seconds) for sound in (np.zeros(count, np.float32), *sounds)]
    if input_config.audio_normalization == "sample":
        features = [z_score(values) for values in features]
    return torch.from_numpy(np.stack(features))


def _like_training(spec: InputSpec, noise: Tensor) -> Tensor:
    """Give noise of mean 0 and standard deviation 1, ``(clips, *spec.shape)``, those of the training split, by feature or channel."""
    trailing = (1,) * (-1 - INPUT_KINDS[spec.kind].channels)
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, *trailing) for values in (spec.mean, spec.std))
    return mean + std * noise
