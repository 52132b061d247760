"""Tables of the paper and of the report, as declarations: which rows, trained how. Imports no PyTorch.

All rows of a table train the same number of epochs, and with the same learning rate in each epoch (``plan.configuration``). Options of
methods are the declared defaults, except those in ``chosen``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mm_balance.errors import UserError
from mm_balance.methods import METHODS
from mm_balance.reproduction.chosen import CHOSEN

CONTROL = "concat_unimodal"
"""Joint training with unimodal losses: what a method must beat."""
OURS = "gap_mixture"
QUICK = "quick"
SMALL = ("digits", "grid")
"""Data sets with small networks, a short recipe and many regimes; the others have ResNet-18 and the paper's hundred epochs."""
DATA = ("digits", "grid", "cremad", "ave", "kinetics_sounds", "manifest")
"""Data sets with tables; ``manifest``: your own clips."""


@dataclass(frozen=True)
class Row:
    """One row of a table: one training for each seed.

    Attributes:
        name: its name, unique within its group.
        method: name of the method.
        settings: parameters, and options of the method, that differ from the preset's.
        after_warmup: whether it is a second stage after a warm-up, which all such rows of a data set and seed share; otherwise it is
            trained from scratch, as long as both stages.
        group: rows that are compared with each other: a regime, a kind of corruption, an optimizer; empty = the whole table.
    """

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    after_warmup: bool = True
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: its name in the parameter ``tables``.
        title: its heading.
        rows: its rows, in order.
        baseline: name of the row, in every group, that differences are taken to: the control.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    baseline: str = CONTROL

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order; one empty name if the table has none."""
        return tuple(dict.fromkeys(row.group for row in self.rows))


PAPER_METHODS = (
    "concat", "g_blending", "ogm_ge", "greedy", "pmr", "agm", "mla", "diagnose_relearn", "opm_ogm", "gap_mixture",
)  # fmt: skip
"""Methods of the paper's Table 1, in its order."""
CONTROLS = (CONTROL, "loss_mixture", "posterior_discount", "gce")
"""What the report adds first."""
NEED_WARMUP = ("gap_mixture", "purified")
"""Methods that learn from the gaps of a warm-up; the others of Table 1 are trained from scratch, as published."""
SAME_AS_ANOTHER = ("one_modality",)
"""Methods without a row of their own: with ``modality=audio`` it is ``audio_only``."""

ADAM_LEARNING_RATE = {"digits": 0.001, "grid": 0.001}
"""Ours, as the paper gives none."""
ADAM_LEARNING_RATE_OF_RESNET18 = 0.0001

REGIMES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "digits": {
        "40 % corrupted": {"corruption": 0.4},
        "40 % mismatched": {"corruption": 0.4, "corruption_kind": "mismatch"},
        "clean": {"corruption": 0.0},
        "10 % corrupted": {"corruption": 0.1},
        "30 % label noise": {"corruption": 0.3, "corruption_kind": "label"},
    },
    "grid": {
        "40 % mismatched": {"corruption": 0.4, "corruption_kind": "mismatch"},
        "clean": {"corruption": 0.0},
        "40 % corrupted": {"corruption": 0.4},
    },
}
"""Data set -> name of a regime -> parameters of its training split."""
REGIME_METHODS = (CONTROL, "concat", "gce", "loss_mixture", "gap_mixture", "purified", "posterior_discount")
DETECTION_SHARE = 0.2
DETECTION_KINDS = ("mixed", "noise", "blank", "other", "mismatch", "label")
GAP_SOURCES = ("refit", "running", "cross_fitted")
CROSS_FITTED_KINDS = ("mixed",)
"""Kinds that are measured with `cross_fitted`, too: its copies take five times as long as the training."""


def tables_of(data: str) -> tuple[Table, ...]:
    """Return the tables of a data set, those of the paper first.

    Args:
        data: an element of ``DATA``, or ``quick``: a few rows of every table of `digits`, to try the command out.

    Raises:
        UserError: no such data set.
    """
    if data == QUICK:
        return tuple(_shortened(table) for table in tables_of("digits"))
    if data not in DATA:
        raise UserError(f"preset={data} has no tables; give one of {', '.join((*DATA, QUICK))}")
    declared = (_methods(), _ablation(), _optimizer(data), _detection(), _regimes(data))
    chosen = CHOSEN.get(data, {})
    return tuple(
        replace(
            table,
            rows=tuple(replace(row, settings={**chosen.get(row.method, {}), **row.settings}) for row in table.rows),
        )
        for table in declared
    )


def _methods() -> Table:
    further = [name for name in METHODS if name not in (*PAPER_METHODS, *CONTROLS, *SAME_AS_ANOTHER)]
    names = (*PAPER_METHODS, *CONTROLS, *further)
    rows = tuple(Row(name, name, after_warmup=name in NEED_WARMUP) for name in names)
    return Table("methods", "Table 1: methods", rows)


def _ablation() -> Table:
    rows = (
        Row("full", OURS),
        Row("without gap term", OURS, {"gap_weight": 0.0}),
        Row("without shift term", OURS, {"shift_weight": 0.0}),
        Row("without hard term", OURS, {"hard_weight": 0.0}),
        Row("posterior weighting none", OURS, {"posterior_weighting": "none"}),
        Row("posterior weighting prior", OURS, {"posterior_weighting": "prior"}),
        Row("form prose", OURS, {"loss_form": "prose"}),
        Row("form abstract_v2", OURS, {"loss_form": "abstract_v2"}),
        Row("joint", "concat"),
        Row(CONTROL, CONTROL),
    )
    return Table("ablation", "Table 2: ablation", rows)


def _optimizer(data: str) -> Table:
    adam = {"optimizer": "adam", "learning_rate": ADAM_LEARNING_RATE.get(data, ADAM_LEARNING_RATE_OF_RESNET18)}
    rows = tuple(
        Row(name, method, {**settings, **more}, group=group)
        for group, settings in (("SGD", {}), ("Adam", adam))
        for name, method, more in (
            ("reset", OURS, {}),
            ("same", OURS, {"optimizer_state": "keep"}),
            (CONTROL, CONTROL, {}),
        )
    )
    return Table("optimizer", "Table 3: optimizer and its state in the second stage", rows)


def _detection() -> Table:
    rows = tuple(
        Row(
            CONTROL if source == "refit" else f"{CONTROL}, {source}",
            CONTROL,
            {
                "corruption": DETECTION_SHARE,
                "corruption_kind": kind,
                **({} if source == "refit" else {"gap_source": source}),
            },
            group=kind,
        )
        for kind in DETECTION_KINDS
        for source in GAP_SOURCES
        if source != "cross_fitted" or kind in CROSS_FITTED_KINDS
    )
    return Table("detection", "Finding planted corruption", rows)


def _regimes(data: str) -> Table:
    rows = tuple(
        Row(name, method, {**regime, **more}, group=group)
        for group, regime in REGIMES.get(data, REGIMES["grid"]).items()
        for name, method, more in (
            *((method, method, {}) for method in REGIME_METHODS),
            ("posterior_discount, shuffled", "posterior_discount", {"shuffled": True}),
        )
    )
    return Table("regimes", "Broken data: regimes", rows)


QUICK_ROWS = {
    "methods": ("concat", "gap_mixture", CONTROL),
    "ablation": ("full", "without gap term", CONTROL),
    "optimizer": ("reset", "same", CONTROL),
    "detection": (CONTROL, f"{CONTROL}, running"),
    "regimes": (CONTROL, "posterior_discount"),
}


def _shortened(table: Table) -> Table:
    """Return the table with a few rows of its first group."""
    kept = tuple(row for row in table.rows if row.name in QUICK_ROWS[table.name] and row.group == table.groups[0])
    return replace(table, rows=kept)
