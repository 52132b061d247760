"""The table behind the explorer: one row per sample of every split, and how suspect each modality of it is.

Suspicion looks at how well a modality alone predicted the sample's class *while it was trained*, not only at the end, when training
samples are memorized. With p_m,t the true-class probability of modality m at refit t:

    loss_m = mean_t (-log p_m,t)                          in nats
    excess_m = loss_m - median of loss_m over the split   a weak modality is no reason to suspect a sample
    suspicion = max_m excess_m

Where the suspicion is at least ``MARGIN``, the modality with the largest excess is doubted; if even the smallest excess is half as
large, the trouble is common to all modalities, and the label or all of them are doubted instead.

Ours. Of the scores tried on planted corruption (docs/results/detection.md), it found most of it and named the modality best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from mm_balance.functional.gap import true_class_probability
from mm_balance.functional.labels import has_several_classes, is_named_right, label_names
from mm_balance.functional.mixture import Mixture
from mm_balance.types import SplitPredictions

SPLITS = ("train", "val", "test")
"""In the order of the page."""
MARGIN = 1.0
"""Smallest suspicion, in nats, at which something is doubted: the probability of the class is e times smaller than usual."""
COMMON = 0.5
"""From this share of the largest excess on, the smallest one says that the trouble is common to all modalities."""
FLOOR = 1e-6
ALL = "label or all"
"""Doubted if all modalities are in trouble."""
NONE = "none"
CLASSES = "true_classes"
"""Column of the lists of true classes, where samples may have several."""
WRONG_LABEL = "label"
"""In the column ``corrupted``, in place of a modality."""


Table = pd.DataFrame
"""A table of samples, see ``sample_table``."""


@dataclass(frozen=True)
class ExplorerSplit:
    """What is known of one split.

    Attributes:
        name: ``train``, ``val`` or ``test``.
        samples: sample ids.
        predictions: of the final network.
        refits: epoch -> table of that refit, as logged (``p_<modality>`` and ``gap``, in the order of ``samples``, empty where a
            sample was held out); none for test.
        facts: further columns, one value per sample: group, corruption and the like.
    """

    name: str
    samples: Sequence[str]
    predictions: SplitPredictions
    refits: Mapping[int, pd.DataFrame]
    facts: Mapping[str, Sequence[str]]


def sample_table(splits: Sequence[ExplorerSplit], classes: Sequence[str], mixture: Mixture | None) -> pd.DataFrame:
    """Return one row per sample of all splits, the most suspect first.

    Args:
        splits: the splits.
        classes: class names.
        mixture: the mixture of the training gaps at the last refit; None = the run has none, and no posterior.

    Returns:
        Columns: split, sample, the facts, class (several true ones separated by commas, and then also true_classes, a list),
        predicted, ``predicted_<modality>``, right (which modalities alone name the class, or one of the true ones: ``all``, ``none``,
        or their names), p_fused, ``p_<modality>``, loss (of the fused prediction, nats), gap, posterior_imbalanced (of the training
        mixture), those of ``suspicion``, movement (sum of the changes of the gap from refit to refit), gap_by_refit and
        posterior_by_refit (texts, separated by spaces).
    """
    table = pd.concat([_split_table(split, classes, mixture) for split in splits], ignore_index=True)
    return table.sort_values("suspicion", ascending=False, kind="stable", ignore_index=True)


def _split_table(split: ExplorerSplit, classes: Sequence[str], mixture: Mixture | None) -> pd.DataFrame:
    predictions = split.predictions
    labels = predictions.labels
    modalities = list(predictions.unimodal)
    names = np.asarray(classes, dtype=object)
    probabilities = {
        name: true_class_probability(logits.double(), labels).numpy()
        for name, logits in {"fused": predictions.fused, **predictions.unimodal}.items()
    }
    predicted = {name: logits.argmax(dim=1).numpy() for name, logits in predictions.unimodal.items()}
    columns: dict[str, object] = {"split": split.name, "sample": list(split.samples), **split.facts}
    columns["class"] = np.asarray(label_names(labels, tuple(classes)), dtype=object)
    if has_several_classes(labels):
        columns[CLASSES] = [list(names[row]) for row in labels.bool().numpy()]
    columns["predicted"] = names[predictions.fused.argmax(dim=1).numpy()]
    columns |= {f"predicted_{name}": names[found] for name, found in predicted.items()}
    right = {name: is_named_right(logits, labels).numpy() for name, logits in predictions.unimodal.items()}
    columns["right"] = _right(right)
    columns["p_fused"] = probabilities["fused"]
    columns |= {f"p_{name}": probabilities[name] for name in modalities}
    columns["loss"] = -np.log(np.maximum(probabilities["fused"], FLOOR))
    gap = _gap({name: probabilities[name] for name in modalities})
    columns["gap"] = gap
    if mixture is not None:
        columns["posterior_imbalanced"] = _posterior(mixture, gap)
    columns |= suspicion(_measured(split, {name: probabilities[name] for name in modalities}))
    gaps = [_filled(table["gap"], gap) for _, table in sorted(split.refits.items())]
    columns["movement"] = sum((np.abs(np.diff(pair, axis=0))[0] for pair in pairwise(gaps)), np.zeros(len(gap)))
    columns["gap_by_refit"] = _series(gaps or [gap])
    if mixture is not None:
        columns["posterior_by_refit"] = _series([_posterior(mixture, values) for values in gaps or [gap]])
    return pd.DataFrame(columns)


def _measured(split: ExplorerSplit, final: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Return the probabilities that suspicion is computed from: those of the refits, or of the final network if there are none."""
    if not split.refits:
        return {name: [values] for name, values in final.items()}
    return {
        name: [_filled(table[f"p_{name}"], values) for table in split.refits.values()] for name, values in final.items()
    }


def _filled(values: pd.Series, final: np.ndarray) -> np.ndarray:
    """Return the values of a refit, and those of the final network for samples that it does not have (a method held them out)."""
    return np.where(values.isna(), final, values)


def suspicion(probabilities: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the columns ``loss_<modality>``, suspicion, suspect (the modality with the largest excess), doubted and why.

    Args:
        probabilities: modality -> true-class probabilities ``(samples,)``, one array per refit.

    Example:
        >>> audio, visual = np.array([0.9, 0.8, 0.01]), np.array([0.8, 0.9, 0.9])
        >>> list(suspicion({"audio": [audio], "visual": [visual]})["doubted"])
        ['', '', 'audio']
    """
    names = np.asarray(list(probabilities), dtype=object)
    logs = {
        name: np.mean([-np.log(np.maximum(values, FLOOR)) for values in series], axis=0)
        for name, series in probabilities.items()
    }
    losses = np.stack(list(logs.values()))
    medians = np.median(losses, axis=1, keepdims=True)
    excess = losses - medians
    suspect = names[excess.argmax(axis=0)]
    doubted = suspect.copy()
    doubted[excess.min(axis=0) >= COMMON * excess.max(axis=0)] = ALL
    doubted[excess.max(axis=0) < MARGIN] = ""
    typical = np.exp(-losses)
    usual = dict(zip(names, np.exp(-medians[:, 0]), strict=True))
    why = [
        _why(name, dict(zip(names, values, strict=True)), usual)
        for name, values in zip(doubted, typical.T, strict=True)
    ]
    return {
        **{f"loss_{name}": values for name, values in logs.items()},
        "suspicion": excess.max(axis=0),
        "suspect": suspect,
        "doubted": doubted,
        "why": np.asarray(why, dtype=object),
    }


def _why(doubted: str, typical: Mapping[str, float], usual: Mapping[str, float]) -> str:
    """Say what speaks against a modality.

    Args:
        doubted: what is doubted; empty = nothing.
        typical: modality -> geometric mean of the sample's probabilities over the refits.
        usual: modality -> the same of the sample in the middle of the split.
    """
    if doubted == "":
        return ""
    given = {
        name: f"{name} alone gives the class p {value:.3f}, usually {usual[name]:.3f}"
        for name, value in typical.items()
    }
    if doubted == ALL:
        return "; ".join(given.values())
    others = ", ".join(f"{name} {value:.3f}" for name, value in typical.items() if name != doubted)
    return f"{given[doubted]}; {others}" if others else given[doubted]


def _right(found: Mapping[str, np.ndarray]) -> np.ndarray:
    names = list(found)
    table = np.stack([found[name] for name in names])
    right = np.asarray(
        [" + ".join(name for name, hit in zip(names, hits, strict=True) if hit) or NONE for hits in table.T],
        dtype=object,
    )
    right[table.all(axis=0)] = "all"
    return right


def _gap(probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    leading, *others = probabilities.values()
    return leading - np.max(others, axis=0)


def _posterior(mixture: Mixture, gaps: np.ndarray) -> np.ndarray:
    return mixture.posterior_imbalanced(torch.from_numpy(np.ascontiguousarray(gaps))).numpy()


def _series(values: Sequence[np.ndarray]) -> list[str]:
    return [" ".join(f"{value:.3f}" for value in row) for row in np.stack(values, axis=1)]


def right_by_class(table: pd.DataFrame) -> pd.DataFrame:
    """Count which modalities alone were right, per class: classes in rows, the values of ``right`` in columns, and a row of all.

    A sample with several true classes counts in the row of each, and once in the row of all.
    """
    members = table.explode(CLASSES) if CLASSES in table else table
    counts = pd.crosstab(members[CLASSES if CLASSES in table else "class"], members["right"])
    every = pd.DataFrame({"all classes": table["right"].value_counts()}).T
    counts = pd.concat([counts, every]).fillna(0).astype(int)
    order = ["all", *sorted(set(counts) - {"all", NONE}), NONE]
    return counts[[name for name in order if name in counts]]


def suspects(table: pd.DataFrame) -> pd.DataFrame:
    """Return the samples of which something is doubted: those of training, which can be mended, first, the most suspect first in each.

    Columns: split, sample, class, doubted, corrupted (where corruption was planted), suspicion, why.
    """
    found = table[table["doubted"] != ""].sort_values("suspicion", ascending=False, kind="stable")
    found = found.sort_values("split", key=lambda names: names.map(SPLITS.index), kind="stable", ignore_index=True)
    columns = ("split", "sample", "class", "doubted", "corrupted", "suspicion", "why")
    return found[[name for name in columns if name in found]]


def compared(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Add what another run says of the same samples: ``against_predicted``, ``against_gap`` and ``gap_change`` (this one minus that).

    What changed most comes first.
    Samples that the other run does not have keep empty values.
    """
    columns = other[["split", "sample", "predicted", "gap"]].rename(
        columns={"predicted": "against_predicted", "gap": "against_gap"}
    )
    both = table.merge(columns, on=["split", "sample"], how="left", validate="one_to_one")
    both["gap_change"] = both["gap"] - both["against_gap"]
    return both.sort_values("gap_change", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def first_of_each_split(table: pd.DataFrame, count: int) -> list[tuple[str, str]]:
    """Return the first ``count`` samples of each split in the order of the table, as (split, sample)."""
    first = table.groupby("split", sort=False).head(count)
    return list(zip(first["split"], first["sample"], strict=True))


def in_order(table: pd.DataFrame, samples: Sequence[str]) -> pd.DataFrame:
    """Return the lines of a refit's table in the order of ``samples``; a sample that it does not have gets empty values."""
    return table.set_index("sample").reindex(samples).reset_index()


def flow(posteriors: Mapping[int, np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Count how samples move between the components from one refit to the next.

    Args:
        posteriors: epoch -> posterior of the imbalanced component, ``(samples,)``.

    Returns:
        Per refit but the first: its epoch, and counts ``(2, 2)``: from (balanced, imbalanced) in rows to (balanced, imbalanced).
    """
    steps = []
    ordered = sorted(posteriors.items())
    for (_, before), (epoch, after) in pairwise(ordered):
        start, end = (before > 0.5).astype(int), (after > 0.5).astype(int)
        counts = np.zeros((2, 2), dtype=int)
        np.add.at(counts, (start, end), 1)
        steps.append((epoch, counts))
    return steps
