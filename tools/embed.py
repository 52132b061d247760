"""Encode every sample of a data set once, with frozen encoders: a manifest of vectors, on which a CPU trains in seconds.

    python tools/embed.py --dataset cremad --encoder torchvision/resnet18 --visual_normalization imagenet \
        --encoder_weights audio:weights/sounds.safetensors,visual:weights/pictures.safetensors --out embeddings/cremad
    python tools/embed.py --run_id ID --out embeddings/own        # the encoders of a logged run, on its data
    mlflow run . --env-manager local -P dataset=embeddings/cremad/manifest.csv -P preset=embeddings

`--out` gets one `.npy` file per sample and modality, `embeddings.json` (what was encoded, by which encoders, SHA-256 of their weights)
and last `manifest.csv`. An interrupted call is continued by the same command, with the same result.

Vectors and sequences are kept as they are, unless weights are given for their encoder. Samples are encoded without augmentation, and
without corruption: what a run should corrupt, it corrupts in the vectors.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import mm_balance
from mm_balance.commands.guard import run_guarded
from mm_balance.config import AUTO, Config, Option, options, parse_value, resolve, restore
from mm_balance.errors import Interrupted, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from mm_balance.data import MultimodalData, Split
    from mm_balance.models import MultimodalNetwork

    Stop = Callable[[], bool]

RECIPE_FILE, MANIFEST_FILE = "embeddings.json", "manifest.csv"
OF_DATA = ("dataset", "modalities", "protocol", "on_error", "allow_outside", "data_dir", "workers")
OF_MACHINE = ("device", "batch_size")
OF_ENCODERS = ("encoder", "encoder_weights", "seed", "preset")
CLEAN = {"corruption": 0.0, "train_fraction": 1.0}
"""Every sample is encoded, as it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode, and return the exit status: 1 = an error, in one line."""
    return run_guarded(lambda stop: embed(sys.argv[1:] if arguments is None else arguments, stop))


def embed(arguments: Sequence[str], stop: Stop = lambda: False) -> None:
    """Encode the data set that the command line names, or go on with it.

    Raises:
        UserError: a bad value; encoders without weights; a folder with something else, or with embeddings made in another way.
        Interrupted: ``stop`` returned True; the files that are there are kept.
    """
    given, out = parse(arguments)
    # PyTorch takes seconds to import: first everything that needs none of it.
    config = None if given.get("run_id") else resolve(_without_run(given) | CLEAN)
    refuse_other_content(out)
    from mm_balance.seeding import seed_everything, set_numerics
    from mm_balance.workflow.setup import read_data, resolve_device

    device = resolve_device(given.get("device", AUTO))
    set_numerics(device, deterministic=False)
    if config is None:
        model, data, config, origins = of_run(given, stop)
    else:
        data = read_data(config, stop)
        seed_everything(config.run.seed)
        model, origins = of_library(config, data, chosen="encoder_weights" in given)
    recipe = description(data, model, config, origins)
    begin(out, recipe)
    if (out / MANIFEST_FILE).is_file():
        print(f"mm-balance: {out} is finished: nothing to do")
    else:
        import torch

        model = model.to(device).to(memory_format=torch.channels_last).eval()
        with alone(out):
            for split in data.splits.values():
                encode_split(split, model, origins, out, config.optimization.batch_size, device, stop)
            write_rows(data, out)
    described = ", ".join(f"{name} {item['features']} features" for name, item in recipe["encoders"].items())
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    modalities = "" if tuple(data.specs) == ("audio", "visual") else f" -P modalities={','.join(data.specs)}"
    print(f"mm-balance: {described}; {counts}")
    print(f"train: mlflow run . --env-manager local -P dataset={out / MANIFEST_FILE} -P preset=embeddings{modalities}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists what there is")


def parameters() -> dict[str, Option]:
    """Return the parameters that are those of every command, by name."""
    return {
        name: option
        for name, option in options().items()
        if name in (*OF_DATA, *OF_MACHINE, *OF_ENCODERS, "run_id") or option.group in ("input", "digits")
    }


def parse(arguments: Sequence[str]) -> tuple[dict[str, Any], Path]:
    """Return the given parameters, as every command parses them, and the folder.

    Raises:
        UserError: an unknown parameter, a bad value, no folder, or encoders beside those of a run.
    """
    parser = _Parser(
        prog="python tools/embed.py",
        usage="%(prog)s --out FOLDER [--PARAMETER VALUE ...]",
        description="Encode every sample of a data set once, with frozen encoders.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the vectors and their manifest go")
    declared = parameters()
    for name, option in declared.items():
        text = "take the encoders of this finished run, and its data" if name == "run_id" else option.help
        parser.add_argument(f"--{name}", metavar="VALUE", help=text.replace("%", "%%"))
    texts = vars(parser.parse_args(list(arguments)))
    if not texts.get("out"):
        raise UserError("out is missing; give the folder for the vectors and their manifest: --out FOLDER")
    out = Path(texts.pop("out")).expanduser()
    given = {name: parse_value(declared[name], text) for name, text in texts.items() if text.strip() != AUTO}
    if given.get("run_id"):
        allowed = (*OF_DATA, *OF_MACHINE, "run_id")
        if misplaced := [name for name in given if name not in allowed]:
            raise UserError(
                f"{misplaced[0]}: encoders, and how their inputs are made, are those of run {given['run_id']}; leave it out"
            )
    return given, out


def _without_run(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "run_id"}


def of_library(
    config: Config, data: MultimodalData, *, chosen: bool
) -> tuple[MultimodalNetwork, dict[str, dict[str, str]]]:
    """Return a network with the encoders of ``config``, and modality -> where their weights are from; empty = kept as it is.

    Args:
        config: the configuration.
        data: what is encoded.
        chosen: whether the user gave ``encoder_weights``; then ``none`` in it means it: random weights.

    Raises:
        UserError: an encoder without weights, or one that does not suit the data.
    """
    from mm_balance.input_kinds import SEQUENCE, VECTOR
    from mm_balance.models import MultimodalNetwork
    from mm_balance.workflow.pretrained import load_pretrained, weight_digests, weight_sources

    sources, digests = weight_sources(config), weight_digests(config)
    kept = [name for name, spec in data.specs.items() if spec.kind in (VECTOR, SEQUENCE) and name not in sources]
    random = [name for name in data.specs if name not in sources and name not in kept]
    if not sources and not random:
        raise UserError("nothing to encode: all modalities are vectors or sequences, and no encoder_weights are given")
    if random and not chosen:
        raise UserError(
            f"encoder={config.model.encoder}: no weights for {', '.join(random)}, and random ones mean nothing; give "
            f"encoder_weights={','.join(f'{name}:FILE' for name in data.specs)} (none in place of FILE, if you want just that)"
        )
    model = MultimodalNetwork(data.specs, len(data.classes), encoder=config.model.encoder, fusion="concat")
    if loaded := load_pretrained(model, config):
        print(f"mm-balance: pretrained weights: {loaded}")
    origins = {name: {"weights": Path(source).name, "file_sha256": digests[name]} for name, source in sources.items()}
    origins |= {name: {"weights": f"random, seed {config.run.seed}"} for name in random}
    return model, {name: origins.get(name, {}) for name in data.specs}


def of_run(
    given: Mapping[str, Any], stop: Stop
) -> tuple[MultimodalNetwork, MultimodalData, Config, dict[str, dict[str, str]]]:
    """Return the network of a logged run, the data, their configuration, and modality -> where the weights are from.

    Raises:
        UserError: no such run, one without a model; a modality that it did not learn from; its data have changed; other data whose
            inputs do not have the format that its encoders take.
    """
    from mm_balance.commands.training import check_same_data
    from mm_balance.tracking.lookup import existing_run
    from mm_balance.tracking.model import load_network
    from mm_balance.workflow.setup import read_data
    from mm_balance.workflow.trained import load_trained

    run = existing_run(given["run_id"], "run_id")
    saved = run.saved_config()
    asked = restore({**saved, **_without_run(given)})
    config = asked.replace(**CLEAN)
    data = read_data(config, stop)
    trained_on = restore(saved).data
    if config.data.dataset == trained_on.dataset:
        # A run trained on corrupted data knows the digest of those.
        corrupted = asked.corruption.corruption != 0.0
        check_same_data(run, read_data(asked.replace(train_fraction=1.0), stop) if corrupted else data)
    model, epoch = load_trained(run, data) if run.latest_model() is None else load_network(run)
    for name, spec in data.specs.items():
        if name not in model.specs:
            raise UserError(f"run {run.run_id} has no encoder for {name}; it has {', '.join(model.modalities)}")
        if name not in model.fusion.uses:
            raise UserError(f"run {run.run_id} did not train its encoder of {name}; give a run of all modalities")
        own = model.specs[name]
        if (spec.kind, spec.shape) != (own.kind, own.shape):
            raise UserError(
                f"dataset={config.data.dataset}: {name} is a {spec.kind} of shape {spec.shape}, and the encoder of run {run.run_id} "
                f"takes a {own.kind} of shape {own.shape}"
            )
    tags = run.read().data.tags
    text = f"run {run.run_id}, epoch {epoch}: {tags.get('mm.method', 'model')} on {tags.get('mm.dataset', trained_on.dataset)}"
    return model, data, config, {name: {"weights": text} for name in data.specs}


def description(
    data: MultimodalData, model: MultimodalNetwork, config: Config, origins: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return what the vectors are, JSON-ready. Equal descriptions give equal vectors, up to rounding on another machine."""
    encoders: dict[str, dict[str, Any]] = {}
    for name, origin in origins.items():
        if origin:
            digest = tensors_digest(model.encoders[name].state_dict())
            spec, width = model.encoder_specs[name], model.widths[name]
            normalized = {"mean": list(model.specs[name].mean), "std": list(model.specs[name].std)}
            encoders[name] = {"encoder": spec.name, "features": width, **origin, "tensors_sha256": digest, **normalized}
        else:
            encoders[name] = {"encoder": "kept as it is", "features": data.specs[name].shape[-1]}
    return {
        "data": {
            "name": data.name, "digest": data.digest, "source": data.source, "recipe": data.recipe, "lists": data.lists,
            "notes": data.notes, "skipped": len(data.skipped), "samples": {name: len(split) for name, split in data.splits.items()},
        },
        "inputs": asdict(config.input),
        "encoders": encoders,
    }  # fmt: skip


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and values of weights, in hex: whatever file they are in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def refuse_other_content(out: Path) -> None:
    """Raise UserError if ``out`` is no folder, or has something else in it than embeddings."""
    if out.exists() and not out.is_dir():
        raise UserError(f"out={out} is a file; give a folder")
    if out.is_dir() and not (out / RECIPE_FILE).is_file() and any(out.iterdir()):
        raise UserError(f"out={out} has files in it, and no {RECIPE_FILE}; give a new folder")


def begin(out: Path, recipe: Mapping[str, Any]) -> None:
    """Note in ``out`` what is made there, or check that it is what was begun there. Raises UserError if it is not."""
    path = out / RECIPE_FILE
    made_by = {"made_by": f"mm-balance {mm_balance.__version__}, tools/embed.py"}
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(made_by | dict(recipe), indent=2, ensure_ascii=False)
        partial = out / f".{RECIPE_FILE}"
        partial.write_text(text + "\n", "utf-8")
        os.replace(partial, path)
        return
    try:
        known = json.loads(path.read_text("utf-8"))
        before = {part: known[part] for part in recipe}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; delete the folder, or give another one") from None
    now = json.loads(json.dumps(recipe))
    if different := [part for part in now if now[part] != before[part]]:
        raise UserError(
            f"out={out} has embeddings that were made in another way "
            f"(other {' and '.join(different)}, see {RECIPE_FILE}); give another folder"
        )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other processes from writing to ``out``. Raises UserError if one does."""
    with (out / RECIPE_FILE).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out={out}: another process is encoding into it; wait, or give another folder") from None
        yield


def encode_split(
    split: Split,
    model: MultimodalNetwork,
    origins: Mapping[str, Mapping[str, str]],
    out: Path,
    batch_size: int,
    device: Any,
    stop: Stop,
) -> None:
    """Write the vectors of a split; batches whose files are all there are not encoded again.

    Raises:
        UserError: a vector with a value that is not finite, named by its sample.
        Interrupted: ``stop`` returned True.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from mm_balance.data import BatchLoader

    encoded = tuple(name for name, origin in origins.items() if origin)
    for name in origins:
        (out / name).mkdir(exist_ok=True)
    # The batches are always the same, so that a continued call gives the same bits.
    chunks = torch.arange(len(split)).split(batch_size)
    todo = [
        chunk
        for chunk in chunks
        if not all(file_of(out, name, split, int(i)).is_file() for name in origins for i in chunk)
    ]
    for chunk in tqdm(todo, desc=f"encoding {split.name}", unit="batch", mininterval=0.5, dynamic_ncols=True):
        if stop():
            raise Interrupted
        part = split.subset(chunk)
        (batch,) = BatchLoader(part, len(chunk)).ordered(device)
        with torch.inference_mode():
            features = model.encode(batch.inputs, encoded)
        values = {name: features[name].float() if name in encoded else batch.inputs[name] for name in origins}
        for name, value in values.items():
            rows = np.ascontiguousarray(value.cpu().numpy(), dtype=np.float32)
            for row, index in zip(rows, chunk.tolist(), strict=True):
                if not np.isfinite(row).all():
                    raise UserError(
                        f"sample {split.samples[index]!r}: its vector of {name} is not finite; use other weights, "
                        "or leave the sample out"
                    )
                write_vector(file_of(out, name, split, index), row)


def file_of(out: Path, modality: str, split: Split, index: int) -> Path:
    """Return the file of a sample: by number, because ids may have characters that names of files cannot have."""
    return out / modality / f"{split.name}-{index:06d}.npy"


def write_vector(path: Path, values: np.ndarray) -> None:
    """Write a file of numpy's; a kill leaves it whole, or not there."""
    import numpy as np

    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as file:
        np.save(file, values)
    os.replace(partial, path)


def write_rows(data: MultimodalData, out: Path) -> None:
    """Write the manifest: splits, labels, groups and further columns are those of the data."""
    from mm_balance.data.readers import RawRow, RawSet, write_manifest
    from mm_balance.data.store import FACTS

    facts = {fact for known in FACTS.values() for fact in known} | {"file"}
    about_files = {f"{modality}_{fact}" for modality in data.specs for fact in facts}
    others = [
        name for name in data.table if name not in {"sample", "split", "label", "group", *data.specs, *about_files}
    ]
    lines = {sample: line for line, sample in enumerate(data.table.get("sample", ()))}

    def cell(column: str, sample: str) -> str:
        return str(data.table[column][lines[sample]]) if column in data.table else ""

    rows = [
        RawRow(
            sample=sample,
            split=split.name,
            label=data.classes[int(split.labels[index])],
            files={name: str(file_of(out, name, split, index).relative_to(out)) for name in data.specs},
            group=cell("group", sample),
            extra={column: cell(column, sample) for column in others},
        )
        for split in data.splits.values()
        for index, sample in enumerate(split.samples)
    ]
    write_manifest(
        RawSet(
            name=data.name, protocol="", rows=rows, excluded=[], missing=[], lists={}, notes=[], source_text=data.source
        ),
        out / MANIFEST_FILE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
