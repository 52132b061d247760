"""The explorer as one HTML file without any other: table, pictures, sounds and script are inside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mm_balance.explorer.media import Media
from mm_balance.explorer.samples import right_by_class

SPLITS = ("train", "val", "test")
DIGITS = 4
"""Significant digits of numbers in the page."""
MOST_CHOICES = 200
"""A column with more values is searched, not chosen from."""
HIDDEN = ("why", "posterior_by_refit", "suspect")
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
        The page. Every text of the table is escaped; it opens without network and in a frame without origin (as MLflow shows it).
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
    columns = list(table)
    return environment.get_template("explorer.html").render(
        text=text,
        total=len(table),
        matrices={name: _matrix(table[table["split"] == name]) for name in SPLITS if name in set(table["split"])},
        filters={name: sorted(map(str, set(table[name]))) for name in _filters(table)},
        titles=TITLES,
        truth=_truth(table),
        data={
            "columns": columns,
            "rows": [[_plain(value) for value in row] for row in table.itertuples(index=False, name=None)],
            "media": [_embedded(media.get(key)) for key in zip(table["split"], table["sample"], strict=True)],
            "numbers": [name for name in columns if pd.api.types.is_numeric_dtype(table[name])],
            "titles": {name: TITLES.get(name, name.replace("_", " ")) for name in columns},
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
        "suspicion",
        "gap_change",
        "gap_by_refit",
        "gap",
        "against_gap",
        "right",
        "predicted",
    ]
    last = ["group", "corrupted", "corruption_kind"]
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


def _truth(table: pd.DataFrame, first: int = 50) -> str:
    """Say how many of the first suspects of training are truly corrupted; empty where nothing was planted."""
    if "corrupted" not in table:
        return ""
    train = table[table["split"] == "train"]
    if not (train["corrupted"] != "").any():
        return ""
    top = train.sort_values("suspicion", ascending=False, kind="stable").head(first)
    broken = top[top["corrupted"] != ""]
    of_modality = broken[broken["corrupted"] != "label"]
    named = int((of_modality["suspect"] == of_modality["corrupted"]).sum())
    share = (train["corrupted"] != "").mean()
    return (
        f"Planted corruption: {share:.0%} of the training samples. Of the {len(top)} most suspect of them, {len(broken)} are truly "
        f"corrupted; of {len(of_modality)} that are corrupted in a modality, {named} are suspected in that one."
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
