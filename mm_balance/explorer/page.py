"""The explorer as one HTML file without any other: table, pictures, sounds and script are inside it."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mm_balance.explorer.media import Media
from mm_balance.explorer.samples import ALL, CLASSES, MARGIN, SPLITS, WRONG_LABEL, right_by_class

DIGITS = 4
"""Significant digits of numbers in the page."""
MOST_CHOICES = 200
"""A column with more values is searched, not chosen from."""
HIDDEN = ("posterior_by_refit", "suspect")
"""Columns shown in the details of a row, not in the table."""
TITLES = {
    "gap_by_refit": "gap over the refits",
    "posterior_imbalanced": "posterior imbalanced",
    "right": "right alone",
    "p_fused": "p fused",
    "against_predicted": "predicted by the other run",
    "against_gap": "gap in the other run",
    "gap_change": "change of the gap",
    "corruption_kind": "kind of corruption",
}
"""Column -> its heading, where that is not the name with spaces."""
HINTS = {
    "suspicion": f"How far the loss of a modality alone lies above what is usual, in nats; from {MARGIN:g} on, something is doubted",
    "doubted": f"The modality with an unusual loss, from a suspicion of {MARGIN:g} nat on; `label or all`: all are in trouble",
    "corrupted": "Broken on purpose, so that doubts can be checked; planted in training samples only: an empty cell of another split "
    "is no verdict",
    "corruption_kind": "What stands in its place",
    "why": "p: probability of the true class, geometric mean over the refits; usually: that of the sample in the middle of the split",
    "gap_by_refit": "One point a refit, from -1 to 1; point at it for the numbers",
    "right": "Which modalities alone name the true class",
    "movement": "Sum of the changes of the gap from refit to refit",
    "loss": "Of the fused prediction, in nats",
    "posterior_imbalanced": "Of the imbalanced component of the last mixture of training gaps",
}
"""Column -> what it means, shown while one points at its heading."""
KINDS = {
    "noise": "white noise",
    "blank": "silence or black",
    "other": "another sample's, of another class",
    "mismatch": "exchanged with another sample's",
    "label": "a wrong label",
}
"""Kind of planted corruption -> how the page calls it."""


@dataclass(frozen=True)
class PageText:
    """What the page says beside the table.

    Attributes:
        title: heading.
        facts: name -> text: run, method, data set, seed and the like.
        sentences: findings in words, plain text.
        modalities: names; the first is the leading one of the gap.
        epochs: epochs of the refits, in the order of ``gap_by_refit``.
        flow: SVG of how samples move between the components; empty = none.
        against: name of the other run; empty = none.
        embedded: number of samples with pictures and sounds per split.
    """

    title: str
    facts: Mapping[str, str]
    sentences: Sequence[str]
    modalities: Sequence[str]
    epochs: Sequence[int]
    flow: str = ""
    against: str = ""
    embedded: int = 0
    notes: Sequence[str] = field(default_factory=tuple)


def explorer_html(table: pd.DataFrame, media: Mapping[tuple[str, str], Media], text: PageText) -> str:
    """Write the page.

    Args:
        table: of ``samples.sample_table``, in the order of the page.
        media: (split, sample) -> what can be seen and heard of it.
        text: everything else.

    Returns:
        The page. Every text of the table is escaped, and the page allows no script but its own and no request. It opens without
        network and in a frame without origin (as MLflow shows it).
    """
    environment = Environment(
        loader=PackageLoader("mm_balance.explorer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    bundle = files("itables").joinpath("html")
    table = table[_ordered(list(table))]
    if "corruption_kind" in table:
        table = table.assign(corruption_kind=table["corruption_kind"].map(lambda kind: KINDS.get(kind, kind)))
    several = list(table[CLASSES]) if CLASSES in table else None
    matrices = {name: _matrix(table[table["split"] == name]) for name in SPLITS if name in set(table["split"])}
    table = table.drop(columns=CLASSES, errors="ignore")
    columns = list(table)
    filters = {name: sorted(map(str, set(table[name]))) for name in _filters(table)}
    if several is not None:  # one is chosen, and samples with others besides are shown, too
        choices = sorted({name for names in several for name in names})
        filters["class"] = choices if len(choices) <= MOST_CHOICES else []
        filters = {name: values for name, values in filters.items() if values}
    return environment.get_template("explorer.html").render(
        nonce=secrets.token_urlsafe(16),  # only the script that has it runs, whatever else gets into the page
        text=text,
        total=len(table),
        sentences=[*_truth(table), *text.sentences],
        matrices=matrices,
        filters=filters,
        # Only training samples can be mended; two runs are compared on all.
        chosen={"split": "train"} if "train" in filters.get("split", ()) and not text.against else {},
        titles=TITLES,
        data={
            "columns": columns,
            "rows": [[_plain(value) for value in row] for row in table.itertuples(index=False, name=None)],
            "several": several,
            "media": [_embedded(media.get(key)) for key in zip(table["split"], table["sample"], strict=True)],
            "numbers": [name for name in columns if pd.api.types.is_numeric_dtype(table[name])],
            "titles": {name: TITLES.get(name, name.replace("_", " ")) for name in columns},
            "hints": HINTS,
            "hidden": list(HIDDEN),
            "epochs": list(text.epochs),
            "modalities": list(text.modalities),
            "filters": _filters(table),
            "against": text.against,
        },
        # A module in a data: address loads in a frame without origin, where one in a blob: address does not.
        script=_address(bundle.joinpath("dt_bundle.js").read_bytes(), "text/javascript"),
        style=bundle.joinpath("dt_bundle.css").read_text("utf-8"),
    )


def _ordered(columns: Sequence[str]) -> list[str]:
    """Return the columns in the order of the page: what is wrong first, then the numbers, then what is known of the sample."""
    first = [
        "sample",
        "split",
        "class",
        "doubted",
        "corrupted",
        "corruption_kind",
        "why",
        "suspicion",
        "gap_change",
        "gap_by_refit",
        "gap",
        "against_gap",
        "right",
        "predicted",
    ]
    last = ["group"]
    middle = [name for name in columns if name not in first and name not in last]
    return [name for name in (*first, *middle, *last) if name in columns]


def _filters(table: pd.DataFrame) -> list[str]:
    """Return the columns by whose values the page filters: those that exist and have a choice."""
    candidates = ("split", "class", "predicted", "right", "doubted", "corrupted", "corruption_kind", "group")
    return [name for name in candidates if name in table and 1 < table[name].nunique() <= MOST_CHOICES]


def _matrix(part: pd.DataFrame) -> dict[str, Any]:
    counts = right_by_class(part)
    lines = zip(counts.index, counts.to_numpy().tolist(), strict=True)
    return {"columns": list(counts), "rows": [(str(name), line) for name, line in lines]}


def _truth(table: pd.DataFrame, first: int = 50) -> list[str]:
    """Say how right the doubts about training samples are, where corruption was planted: of the first, and of all.

    One that names a modality is right if this one is corrupted; where labels are wrong, "label or all" is.
    """
    if "corrupted" not in table:
        return []
    train = table[table["split"] == "train"]
    broken = train["corrupted"] != ""
    if not broken.any():
        return []
    ordered = train.sort_values("suspicion", ascending=False, kind="stable")
    top, doubted = ordered.head(first), ordered[ordered["doubted"] != ""]
    return [
        f"Of the {len(top):,} most suspect training samples, {_found(top)}.",
        f"Of all {len(doubted):,} doubted training samples, {_found(doubted)}.",
        f"Corruption was planted in {int(broken.sum()):,} of {len(train):,} training samples ({broken.mean():.0%}), and in no other "
        "split: there, an empty cell is no verdict.",
    ]


def _found(samples: pd.DataFrame) -> str:
    """Return ``45 are truly corrupted, 40 of 45 in the right modality``, meaning the modality that is doubted."""
    broken = samples[samples["corrupted"] != ""]
    named = broken["doubted"] == broken["corrupted"].replace(WRONG_LABEL, ALL)
    right = "all" if named.all() else f"{int(named.sum()):,} of"
    what = f"doubted as `{ALL}`" if (broken["corrupted"] == WRONG_LABEL).all() else "in the right modality"
    count = len(broken)
    return f"{count:,} {'is' if count == 1 else 'are'} truly corrupted" + (
        f", {right} {count:,} {what}" if count else ""
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return None if not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
    if isinstance(value, np.integer):
        return int(value)
    return value


def _embedded(media: Media | None) -> dict[str, Any] | None:
    if media is None:
        return None
    return {
        "pictures": {name: _picture(content) for name, content in media.pictures.items()},
        "sounds": {name: _address(content, "audio/ogg") for name, content in media.sounds.items()},
        "files": dict(media.files),
    }


def _picture(content: bytes) -> str:
    return _address(content, "image/png" if content.startswith(b"\x89PNG") else "image/webp")


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
