"""The table of samples as Parquet, with pictures and sounds in the form that other tools open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mm_balance.explorer.media import Media

MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""What Hugging Face's ``datasets`` calls an image or a sound; embedding-atlas and DuckDB read it, too."""


def write_samples(
    table: pd.DataFrame, media: Mapping[tuple[str, str], Media], path: Path, modalities: Sequence[str]
) -> None:
    """Write the table, with a column ``<modality>_picture`` and, where there are sounds, ``<modality>_sound`` for each modality.

    Args:
        table: of ``samples.sample_table``.
        media: (split, sample) -> its media; samples without have empty bytes.
        path: the file.
        modalities: names of the modalities.
    """
    keys = list(zip(table["split"], table["sample"], strict=True))
    columns = pa.Table.from_pandas(table, preserve_index=False)
    features: dict[str, Any] = {}
    for name in modalities:
        kinds = {"picture": ("Image", "pictures"), "sound": ("Audio", "sounds")}
        for kind, (feature, attribute) in kinds.items():
            if kind == "sound" and not any(getattr(item, attribute).get(name) for item in media.values()):
                continue
            values = [_value(media.get(key), attribute, name) for key in keys]
            columns = columns.append_column(f"{name}_{kind}", pa.array(values, MEDIA))
            features[f"{name}_{kind}"] = {"_type": feature}
    known = {name: _feature(columns.schema.field(name).type) for name in table}
    info = {"info": {"features": {**known, **features}}}
    metadata = {**(columns.schema.metadata or {}), b"huggingface": json.dumps(info).encode()}
    pq.write_table(columns.replace_schema_metadata(metadata), path)


def _value(media: Media | None, attribute: str, modality: str) -> dict[str, Any] | None:
    if media is None:
        return None
    content = getattr(media, attribute).get(modality)
    return None if content is None else {"bytes": content, "path": media.files.get(modality)}


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    if pa.types.is_floating(kind):
        return {"dtype": "float64", "_type": "Value"}
    return {"dtype": "int64" if pa.types.is_integer(kind) else "string", "_type": "Value"}
