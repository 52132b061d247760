"""Measuring the imbalance of anybody's predictions: gaps, mixture and posterior, without training anything.

The same functions that refit the mixture in our own training, on logits from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mm_balance.errors import NEEDS_CLASSES
from mm_balance.functional.gap import multi_hot_fault
from mm_balance.functional.gap_fits import exact_probabilities, fit_gaps_from_probabilities, gap_fit_metrics
from mm_balance.functional.mixture import KINDS
from mm_balance.types import GapFit
from mm_balance.workflow.gap_report import mixture_warnings, signed, who_is_ahead

if TYPE_CHECKING:
    from mm_balance.explorer.samples import Table
    from mm_balance.figures import Figure

ONE_EACH = (
    "Every sample has exactly one true class, but the labels are multi-hot, so each class was judged by its own sigmoid: if the "
    "classes exclude each other, give class numbers."
)
EDGE = 0.05
"""Logits for multi-hot labels are taken for probabilities if they reach both ends of [0, 1] within this, but never leave it. Those of
an untrained network may lie between 0 and 1, too, but hardly just fill it."""
PROBABILITY_TOLERANCE = 1e-3
"""Rows of probabilities sum to 1 within this much, also in half precision."""


@dataclass(repr=False)
class Measured(GapFit):
    """Gaps of a set of samples with their mixture, see ``measure``; the attributes are those of ``GapFit``, and:

    Attributes:
        samples: stable ids of the samples, in their order.
    """

    samples: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"<{self.sentence()}>"

    @property
    def is_multi_label(self) -> bool:
        """Whether the labels were given as multi-hot, so that probabilities are means over the true classes."""
        return self.labels.ndim == 2

    @property
    def balanced_mean(self) -> float:
        """Mean of the balanced component: ``balanced_mean`` of ``adaptive_loss``."""
        return self.mixture.balanced.mean

    @cached_property
    def _places(self) -> dict[str, int]:
        return {sample: place for place, sample in enumerate(self.samples)}

    def posterior_of(self, samples: Tensor | Iterable[object]) -> Tensor:
        """Return the posterior of being imbalanced of some samples, by id: ``posterior_imbalanced`` of ``adaptive_loss``.

        Args:
            samples: ``(batch,)`` ids as given to ``measure``; where none were given, positions from 0.

        Returns:
            ``(batch,)`` float32 in [0, 1], on the device of ``samples`` if they are a tensor, else on the CPU.

        Raises:
            ValueError: a sample was not measured.
        """
        device = samples.device if isinstance(samples, Tensor) else torch.device("cpu")
        ids = _ids(samples)
        places = [self._places.get(sample) for sample in ids]
        if None in places:
            raise ValueError(
                f"sample {ids[places.index(None)]} is not among the {len(self.samples):,} that were measured: measure all that are "
                "trained on (a loader with drop_last=True leaves some out)"
            )
        return self.posterior_imbalanced[torch.tensor(places, dtype=torch.int64)].to(device, torch.float32)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of a refit by name (``mm_balance.names.REFIT_METRICS``), as our own training logs them."""
        return gap_fit_metrics(self)

    def sentence(self) -> str:
        """Say who is ahead, how many samples count as imbalanced, and what to distrust about the mixture."""
        values = self.metrics()
        what = "mean probability of the true classes" if self.is_multi_label else "probability of the true class"
        parts = [
            f"{who_is_ahead(values['gap/mean'], list(self.probabilities))}: mean gap {signed(values['gap/mean'])} over "
            f"{len(self.gaps):,} samples, mean abs(gap) {values['gap/mean_abs']:.2f} ({what}, not accuracy)."
        ]
        if self.is_multi_label and bool((self.labels.sum(dim=1) == 1).all()):
            parts.append(ONE_EACH)
        if self.mixture.degenerate:
            return " ".join([*parts, "No mixture was fitted: the gaps are too few or all the same."])
        parts.append(f"{100 * values['gap/fraction_imbalanced']:.1f} % of them count as imbalanced.")
        return " ".join([*parts, *(_plain(warning.text) for warning in mixture_warnings(self, self.mixture.kind))])

    def table(self) -> Table:
        """Return one row per sample, with the columns of a run's ``gaps.parquet``.

        They are index, sample, label (the class number; of multi-hot labels the numbers of the true classes as a text, ``0 3``),
        ``p_<modality>``, p_fused (NaN where no fused logits were given), gap and posterior_imbalanced.
        """
        from mm_balance.explorer.gap_table import gap_table  # pandas is loaded when a table is asked for

        return gap_table(self, self.samples, None)

    def most_suspicious(self, count: int = 20) -> Table:
        """Return the rows of the ``count`` most suspicious samples, the most suspicious first.

        Further columns: suspicion (how much less likely than usual the most suspicious modality finds the class, in nats), doubted
        (that modality; ``label or all`` if all are in trouble; empty below a suspicion of 1) and why. This is the explorer's rule on
        one measurement instead of one per refit. With several true classes, "the class" in ``why`` is the mean over them.
        """
        from mm_balance.explorer.samples import suspicion

        found = suspicion({name: [values.numpy()] for name, values in self.probabilities.items()})
        table = self.table().assign(**{name: found[name] for name in ("suspicion", "doubted", "why")})
        return table.sort_values("suspicion", ascending=False, kind="stable").head(count).reset_index(drop=True)

    def figure(self, *, validation: Measured | None = None, title: str = "Modality gap") -> Figure:
        """Draw the histogram of the gaps, the mixture and the posterior; below it the gaps of ``validation``, if given."""
        from mm_balance.figures import mixture_density  # matplotlib is loaded when a figure is asked for

        leading, *others = self.probabilities
        return mixture_density(
            self.gaps.numpy(),
            self.mixture,
            validation=None if validation is None else (validation.gaps.numpy(), validation.mixture),
            title=title,
            leading=leading,
            other=others[0] if len(others) == 1 else "the best other",
        )

    def save_figure(self, path: str | Path, *, validation: Measured | None = None, title: str = "Modality gap") -> None:
        """Write ``figure`` to ``path``, as PNG or, where the name ends so, PDF.

        Raises:
            ValueError: another ending.
        """
        from mm_balance.figures import render

        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".pdf"):
            raise ValueError(f"{path}: a figure is written as .png or .pdf")
        Path(path).write_bytes(render(self.figure(validation=validation, title=title))[suffix])


def measure(
    logits: Mapping[str, Tensor | ArrayLike],
    labels: Tensor | ArrayLike,
    samples: Iterable[object] | None = None,
    *,
    fused: Tensor | ArrayLike | None = None,
    kind: str = "two",
) -> Measured:
    """Measure how far the modalities are apart, sample by sample, from any network's predictions.

    Args:
        logits: modality -> ``(samples, classes)`` logits of that modality alone, as tensors on any device or as arrays; two or more
            modalities. The first one leads the gap: a positive gap says that it is ahead. With class numbers, log-probabilities are
            logits, too; with multi-hot labels only the inverse of the sigmoid is.
        labels: ``(samples,)`` integers, 0 to classes - 1. Or multi-hot, ``(samples, classes)``, bool, or numbers that are exactly 0 or
            1: each class is then judged by the sigmoid of its logit, and the probability of a sample is the mean over its true
            classes (ours). That holds for rows with exactly one true class, too: these are not turned into class numbers.
        samples: ``(samples,)`` ids, texts or numbers, each once; default: positions from 0.
        fused: ``(samples, classes)`` logits of the fused prediction, if there is one; only for the table.
        kind: mixture, ``two``, ``two_absolute`` (on the absolute gap) or ``three``.

    Returns:
        Gaps, mixture, posterior and what can be said, shown and logged of them (``log_refit``). Its ``epoch`` is 0.

    Raises:
        ValueError: fewer than two modalities, samples or classes; shapes that do not match; logits that are no floating-point numbers,
            not finite (minus infinity, for a class that is ruled out, is), or probabilities; labels that are no classes (targets of
            a regression), or out of range; multi-hot labels without any true class, which have no gap; ids that are given twice, or
            of another number; an unknown kind.

    Example:
        >>> labels = np.arange(100) % 2
        >>> sure = np.where(np.arange(2) == labels[:, None], 4.0, 0.0)
        >>> measure({"audio": sure, "visual": 0.0 * sure}, labels).sentence()
        'audio is ahead: mean gap +0.48 over 100 samples, mean abs(gap) 0.48 (probability of the true class, not accuracy). No \
mixture was fitted: the gaps are too few or all the same.'
    """
    if not isinstance(logits, Mapping) or len(logits) < 2:
        found = list(logits) if isinstance(logits, Mapping) else type(logits).__name__
        raise ValueError(f"logits must map two or more modalities to their logits, got {found}")
    if "fused" in logits:
        raise ValueError("fused is no modality: give its logits as fused=...")
    if kind not in KINDS:
        raise ValueError(f"kind={kind} is not known; give one of {', '.join(KINDS)}")
    truth = _labels(labels)
    ids = [str(place) for place in range(len(truth))] if samples is None else _ids(samples)
    _check_ids(ids, len(truth))
    given = {str(name): _logits(values, str(name)) for name, values in logits.items()}
    classes = next(iter(given.values())).shape[1]
    fused_given = {} if fused is None else {"fused": _logits(fused, "fused")}
    for name, values in {**given, **fused_given}.items():
        if values.shape != (len(truth), classes):
            raise ValueError(
                f"logits of {name} have shape {tuple(values.shape)}, but there are {len(truth)} labels, and {next(iter(given))} has "
                f"{classes} classes: need ({len(truth)}, {classes})"
            )
    truth = _multi_hot(truth, classes, ids) if truth.ndim == 2 else _class_numbers(truth, classes)
    probabilities = {name: _probabilities(values, truth, name) for name, values in given.items()}
    unknown = torch.full((len(truth),), torch.nan, dtype=torch.float64)
    fused_probability = _probabilities(fused_given["fused"], truth, "fused") if fused_given else unknown
    fit = fit_gaps_from_probabilities(
        probabilities,
        fused_probability,
        truth,
        0,
        kind,
        samples_digest=hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
    )
    return measured_from(fit, ids)


def measured_from(fit: GapFit, samples: Sequence[str]) -> Measured:
    """Return a gap fit together with the ids of its samples."""
    return Measured(**{item.name: getattr(fit, item.name) for item in fields(GapFit)}, samples=list(samples))


def log_refit(
    measured: Measured,
    step: int,
    *,
    validation: Measured | None = None,
    run_id: str | None = None,
    store: str | None = None,
) -> None:
    """Log what our own runs have of a refit to the active MLflow run of any script.

    That is the metrics ``gmm/...`` and ``gap/...`` at ``step`` (with ``validation`` also ``val/...`` of its gaps), the density plot as
    a step of the images, and in ``refits/epoch_NNNN/`` plot, mixture and table. Logging the same once more adds nothing.

    Args:
        measured: what to log, of training samples.
        step: epochs finished, 0 or more.
        validation: the same of validation samples.
        run_id: another run than the active one.
        store: address of the tracking store that has the run; default: the script's.

    Raises:
        ValueError: ``step`` is no whole number of at least 0.
        UserError: there is no active run, or no run with this id; it has another refit at this step; it cannot be written.
    """
    from mm_balance.tracking.active import log_to_run  # MLflow takes seconds to load

    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ValueError(f"step={step!r} must be a whole number of epochs, 0 or more")
    log_to_run(
        replace(measured, epoch=int(step)),
        measured.samples,
        validation=None if validation is None else replace(validation, epoch=int(step)),
        validation_samples=() if validation is None else validation.samples,
        run_id=run_id,
        store=store,
    )


def _plain(warning: str) -> str:
    """Return a warning of a run's page, on training samples, as it reads in Python, on any samples."""
    return (
        warning.replace("**", "")
        .replace("`mixture=", "`kind=")
        .replace("`", "")
        .replace(" training samples", " samples")
    )


def _logits(values: Any, name: str) -> Tensor:
    """Return logits as a tensor on the CPU."""
    tensor = _tensor(values, f"logits of {name}")
    if tensor.ndim != 2 or tensor.shape[1] < 2:
        raise ValueError(
            f"logits of {name} have shape {tuple(tensor.shape)}; need (samples, classes), two or more classes"
        )
    if not tensor.is_floating_point():
        raise ValueError(f"logits of {name} are {tensor.dtype}, not floating-point numbers: give logits, not classes")
    return tensor


def _labels(values: Any) -> Tensor:
    """Return labels as a tensor on the CPU: ``(samples,)`` int64, or ``(samples, columns)`` that is still to be checked."""
    if isinstance(values, list | tuple) and len({len(item) for item in values if isinstance(item, list | tuple)}) > 1:
        raise ValueError(
            "labels are lists of different lengths: give several classes per sample as multi-hot, (samples, classes), with 1 for each "
            "true class"
        )
    tensor = _tensor(values, "labels")
    targets = f". {NEEDS_CLASSES}" if tensor.is_floating_point() or tensor.is_complex() else ""
    if tensor.ndim not in (1, 2) or tensor.shape[1:] == (1,):
        hint = targets or (": give labels[:, 0]" if tensor.ndim == 2 else "")
        raise ValueError(
            f"labels have shape {tuple(tensor.shape)}; need (samples,), one class number per sample, or multi-hot (samples, classes)"
            f"{hint}"
        )
    if len(tensor) < 2:
        raise ValueError(f"{len(tensor)} labels: need two or more samples")
    if tensor.ndim == 2:
        return tensor
    if targets or tensor.dtype == torch.bool:
        raise ValueError(f"labels are {tensor.dtype}; need integers, the number of the class from 0{targets}")
    return tensor.to(torch.int64)


def _class_numbers(labels: Tensor, classes: int) -> Tensor:
    """Return class numbers as they are. Raises ValueError if one is out of range."""
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        place = int(outside.nonzero()[0])
        raise ValueError(
            f"label {int(labels[place])} of sample {place} is out of range: {classes} classes are 0 to {classes - 1}"
        )
    return labels


def _multi_hot(labels: Tensor, classes: int, ids: Sequence[str]) -> Tensor:
    """Return multi-hot labels as ``(samples, classes)`` bool. Raises ValueError if they are none, or a sample has no true class."""
    if labels.shape[1] != classes:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but the logits have {classes} classes: multi-hot labels are "
            f"(samples, {classes})"
        )
    if (fault := multi_hot_fault(labels)) is not None:
        row, reason = fault
        raise ValueError(f"labels of sample {ids[row]}: {reason}")
    return labels.to(torch.bool)


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.array(values)  # a copy: arrays of others may be read-only
        if array.dtype.kind in "UST" or (array.dtype == object and array.size and isinstance(array.flat[0], str)):
            numbers = (
                "; give class numbers from 0: numpy.unique(labels, return_inverse=True)[1]" if what == "labels" else ""
            )
            raise ValueError(f"they are texts{numbers}")
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are no array of numbers: {str(error).splitlines()[0]}") from error


def _probabilities(logits: Tensor, labels: Tensor, name: str) -> Tensor:
    """Return the true-class probabilities ``(samples,)``. Raises ValueError if the logits are not finite or no logits."""
    probabilities = exact_probabilities(logits, labels)
    bad = torch.isnan(logits).any(dim=1) | torch.isposinf(logits).any(dim=1) | torch.isnan(probabilities)
    if bad.any():
        raise ValueError(
            f"logits of {name} are not finite in {int(bad.sum()):,} of {len(bad):,} samples, first in sample {int(bad.nonzero()[0])}"
        )
    if float(logits.min()) >= 0 and float((logits.double().sum(dim=1) - 1).abs().max()) < PROBABILITY_TOLERANCE:
        raise ValueError(
            f"logits of {name} are probabilities (none is negative, and each row sums to 1): give logits, or the logarithm of these"
        )
    lowest, highest = float(logits.min()), float(logits.max())
    if labels.ndim == 2 and 0 <= lowest < EDGE and 1 - EDGE < highest <= 1:
        raise ValueError(
            f"logits of {name} are probabilities (all are between {lowest:.2g} and {highest:.2g}): give logits, or the inverse of the "
            "sigmoid, torch.logit"
        )
    return probabilities


def _ids(samples: Tensor | Iterable[object]) -> list[str]:
    """Return ids as texts."""
    values = samples.tolist() if isinstance(samples, Tensor | np.ndarray) else list(samples)
    return [str(value) for value in values]


def _check_ids(ids: Sequence[str], count: int) -> None:
    if len(ids) != count:
        raise ValueError(f"{len(ids)} sample ids for {count} labels: give one each")
    if len(set(ids)) != count:
        seen: set[str] = set()
        twice = next(sample for sample in ids if sample in seen or seen.add(sample))  # type: ignore[func-returns-value]
        raise ValueError(f"the sample id {twice} is given more than once: every sample needs its own")
