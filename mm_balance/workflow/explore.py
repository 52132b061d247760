"""The explorer of a run: its samples, what they look and sound like, and which modality of which is suspect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm_balance import names
from mm_balance.config import Config
from mm_balance.data import MultimodalData, Split
from mm_balance.data.digits import RATE as DIGITS_RATE
from mm_balance.data.digits import digits_sounds
from mm_balance.data.files import DecodeError
from mm_balance.data.opus import MOST_SECONDS, opus
from mm_balance.data.sound import read_sound_file
from mm_balance.engine.predictions import predict_split
from mm_balance.errors import UserError
from mm_balance.escaping import spreadsheet_cell
from mm_balance.explorer.gap_table import gap_table
from mm_balance.explorer.media import Media, features_png, frames_picture, spectrogram_png
from mm_balance.explorer.page import PageText, explorer_html
from mm_balance.explorer.parquet import write_samples
from mm_balance.explorer.samples import (
    SPLITS,
    ExplorerSplit,
    Table,
    compared,
    first_of_each_split,
    flow,
    in_order,
    sample_table,
    suspects,
)
from mm_balance.figures import component_flow, svg_text
from mm_balance.input_kinds import SEQUENCE, SOUND, VECTOR
from mm_balance.methods import build_method
from mm_balance.models import MultimodalNetwork
from mm_balance.tracking.lookup import page_link
from mm_balance.tracking.model import load_network
from mm_balance.tracking.refits import read_gap_table, read_refit, read_validation_table, refit_epochs, stage_run
from mm_balance.tracking.runs import TrackedRun
from mm_balance.types import GapFit
from mm_balance.workflow.card import normalized_features
from mm_balance.workflow.gap_report import gap_findings
from mm_balance.workflow.report import NEXT
from mm_balance.workflow.setup import DATA_SEED, corruption_of, read_data, resolve_device
from mm_balance.workflow.trained import load_trained

BRANCHES = (
    "What stands under a modality's name here is a branch that sees the other modalities, too. It is not right or "
    "wrong by that modality alone, and a suspicion names a branch."
)
"""Note on runs of methods whose branches see each other."""


def explore(
    run: TrackedRun,
    data: MultimodalData,
    config: Config,
    *,
    worst: int,
    source: str | None = None,
    against: TrackedRun | None = None,
    device: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> Table:
    """Log the explorer of a finished run on it: ``explorer.html``, ``samples.parquet`` and ``suspects.csv``.

    Args:
        run: a run with a model; of ``main``, the parent.
        data: its data set.
        config: its configuration; ``data_dir`` may be that of this machine.
        worst: number of samples per split whose pictures and sounds are in the page.
        source: folder of the original files; None = that of the manifest, if the data set has one.
        against: another run on the same samples, to compare with.
        device: where to predict.
        stop: polled between samples.

    Returns:
        The table of samples.

    Raises:
        UserError: the run has neither a model nor a checkpoint, or was trained on other data; ``against`` has other samples.
    """
    stage = stage_run(run)
    table = table_of(run, stage, data, device)
    if against is not None:
        other = table_of(against, stage_run(against), data, device)
        table = compared(table, other)
    chosen = first_of_each_split(table, worst)
    media = MediaReader(config, data, media_folder(config, source)).read(chosen, stop)
    text = page_text(run, stage, data, table, worst, against)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / names.EXPLORER_FILE).write_text(explorer_html(table, media, text), "utf-8")
        write_samples(table, media, folder / names.SAMPLES_FILE, tuple(data.specs))
        suspects(table).map(spreadsheet_cell).to_csv(folder / names.SUSPECTS_FILE, index=False)
        for name in (names.EXPLORER_FILE, names.SAMPLES_FILE, names.SUSPECTS_FILE):
            run.log_file(folder / name, "")
    _link_from_description(run, int(((table["split"] == "train") & (table["doubted"] != "")).sum()))
    return table


def _link_from_description(run: TrackedRun, doubted: int) -> None:
    """Let the run's description, which was written before, link to the page: below its first paragraph, which has the results.

    If training samples are doubted, to look at them comes first in the list of what to do next.
    """
    address = page_link(run, names.EXPLORER_FILE)
    link = f"[See and hear the samples]({address})"
    results, _, rest = run.description().partition("\n\n")
    if link in rest:
        return
    if doubted:
        item = (
            f"- Look and listen: [{doubted:,} doubted training samples]({address}), listed in `{names.SUSPECTS_FILE}`"
        )
        rest = rest.replace(f"\n\n{NEXT}\n\n", f"\n\n{NEXT}\n\n{item}\n", 1)
    run.describe(f"{results}\n\n{link}: which modality of which sample is suspect, and why.\n\n{rest}")


def table_of(run: TrackedRun, stage: TrackedRun, data: MultimodalData, device: str) -> Table:
    """Return the table of samples of a run (``samples.sample_table``).

    Args:
        run: the run with the model.
        stage: the run with the refits.
        data: the data set that both were trained on.
        device: where to predict.

    Raises:
        UserError: there is no model, or the data are others.
    """
    if run.read().data.tags.get("mm.data_digest") != data.digest:
        raise UserError(
            f"run {run.run_id} was trained on other data than {data.name} as it is now (digest {data.digest[:12]}); explore runs on "
            "the same data set, with the same corruption"
        )
    model, _ = load_trained(run, data) if run.latest_model() is None else load_network(run)
    chosen = resolve_device(device)
    method = build_method("concat", {}, model.modalities, 0)
    epochs = refit_epochs(stage)
    mixture = read_refit(stage, epochs[-1]).mixture if epochs else None
    parts = []
    for name in SPLITS:
        split = data.splits[name]
        read = {"train": read_gap_table, "val": read_validation_table}.get(name)
        tables = {epoch: read(stage, epoch) for epoch in epochs} if read else {}
        parts.append(
            ExplorerSplit(
                name=name,
                samples=split.samples,
                predictions=predict_split(model.to(chosen), method, split, chosen),
                refits={epoch: in_order(table, split.samples) for epoch, table in tables.items() if table is not None},
                facts=_facts(data, split),
            )
        )
    return sample_table(parts, data.classes, mixture)


def explore_trained(
    model: MultimodalNetwork,
    data: MultimodalData,
    config: Config,
    refits: Sequence[GapFit],
    validation: Sequence[GapFit],
    *,
    worst: int,
) -> tuple[str, Table]:
    """Return the explorer of a network that is at hand and belongs to no run: the page, and its table.

    Args:
        model: the trained network.
        data: what it was trained on.
        config: with which parameters.
        refits: the gap fits of the training samples, in order.
        validation: those of the validation samples.
        worst: number of samples per split whose pictures and sounds are in the page.
    """
    device = resolve_device(config.run.device)
    method = build_method("concat", {}, model.modalities, 0)
    fits = {"train": refits, "val": validation}
    parts = []
    for name in SPLITS:
        split = data.splits[name]
        own = [fit for fit in fits.get(name, ()) if fit.samples_digest == split.samples_digest]
        predictions = predict_split(model.to(device), method, split, device)
        tables = {fit.epoch: gap_table(fit, split.samples, None) for fit in own}
        parts.append(ExplorerSplit(name, split.samples, predictions, tables, _facts(data, split)))
    table = sample_table(parts, data.classes, refits[-1].mixture if refits else None)
    media = MediaReader(config, data, media_folder(config, None)).read(first_of_each_split(table, worst))
    epochs = [fit.epoch for fit in refits]
    text = PageText(
        title=f"{config.method.method} {data.name} seed {config.run.seed}",
        facts={"method": config.method.method, "data": data.name, "seed": str(config.run.seed)},
        sentences=[],
        modalities=tuple(data.specs),
        epochs=epochs,
        flow=_flow_figure({fit.epoch: fit.posterior_imbalanced.numpy() for fit in refits}),
        embedded=worst,
    )
    return explorer_html(table, media, text), table


def _facts(data: MultimodalData, split: Split) -> dict[str, Sequence[str]]:
    facts: dict[str, Sequence[str]] = {}
    if groups := data.table.get("group"):
        by_sample = dict(zip(data.table["sample"], groups, strict=True))
        facts["group"] = [str(by_sample[sample] or "") for sample in split.samples]
    if data.truth_known and any(data.splits["train"].corrupted):
        facts["corrupted"] = split.corrupted
        facts["corruption_kind"] = split.corruption_kind or [""] * len(split)
    return facts


def media_folder(config: Config, source: str | None) -> Path | None:
    """Return the folder that the files of a data set are relative to; None = not known.

    Raises:
        UserError: ``source`` is no folder.
    """
    if source is not None:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise UserError(f"source={source}: no such folder; give the folder of the data set's original files")
        return folder
    manifest = Path(config.data.dataset)
    return manifest.parent if manifest.suffix == ".csv" and manifest.is_file() else None


class MediaReader:
    """Reads what can be seen and heard of samples: pictures as the network gets them, sounds from the original files.

    A sample whose sound was replaced by noise or silence has no sound here, only its spectrogram.

    Args:
        config: configuration of the run.
        data: its data set.
        folder: folder that the files are relative to; None = not at hand, so no sounds but those of `digits`.
    """

    def __init__(self, config: Config, data: MultimodalData, folder: Path | None) -> None:
        self._config = config
        self._data = data
        self._folder = folder
        self._files = _files_by_row(config, data)

    def read(
        self, samples: Sequence[tuple[str, str]], stop: Callable[[], bool] = lambda: False
    ) -> dict[tuple[str, str], Media]:
        """Return the media of samples, given as (split, sample); fewer if ``stop`` returns True in between."""
        recorded = self._digits([sample for _, sample in samples])
        places = {
            name: {sample: place for place, sample in enumerate(split.samples)}
            for name, split in self._data.splits.items()
        }
        found = {}
        for key in samples:
            if stop():
                break
            split, sample = key
            found[key] = self._media(self._data.splits[split], places[split][sample], recorded.get(sample))
        return found

    def _digits(self, samples: Sequence[str]) -> Mapping[str, np.ndarray]:
        if self._data.name != "digits":
            return {}
        return digits_sounds(samples, corruption=corruption_of(self._config), seed=DATA_SEED)

    def _media(self, split: Split, place: int, recorded: np.ndarray | None) -> Media:
        pictures, sounds, files = {}, {}, {}
        for name, value in split.stored(place).items():
            kind = self._data.specs[name].kind
            if kind == SOUND:
                pictures[name] = spectrogram_png(torch.flatten(value, 0, -2).float().numpy())
            elif kind in (VECTOR, SEQUENCE):
                pictures[name] = features_png(normalized_features(value, self._data.specs[name]).numpy())
            else:
                pictures[name] = frames_picture(_frames(value, split, name, place))
            if (file := self._file(split, place, name)) is not None:
                files[name] = file
            if kind == SOUND:
                sound = self._sound(files.get(name)) if recorded is None else opus(recorded, DIGITS_RATE)
                if sound is not None:
                    sounds[name] = sound
        return Media(pictures, sounds, files)

    def _file(self, split: Split, place: int, modality: str) -> str | None:
        replacement = split.replacements.get(modality)
        if split.rows is None or (replacement is not None and replacement.which[place] >= 0):
            return None
        return self._files.get((modality, int(split.rows[modality][place])))

    def _sound(self, file: str | None) -> bytes | None:
        if file is None or self._folder is None:
            return None
        try:
            sound, facts = read_sound_file(self._folder / file, seconds=MOST_SECONDS)
        except (DecodeError, OSError):
            return None  # moved or changed since it was decoded: the spectrogram is still there
        return opus(sound, facts.rate)


def _frames(value: Tensor, split: Split, name: str, place: int) -> np.ndarray:
    """Return the frames of an image as ``(frames, height, width, channels)`` uint8."""
    if (view := split.views.get(name)) is not None:
        return value[: int(view.counts[place])].numpy()
    frames = value if value.dim() == 4 else value.unsqueeze(0)
    if frames.dtype != torch.uint8:
        frames = (255 * frames.clamp(0, 1)).round().to(torch.uint8)
    shown = frames if frames.shape[1] in (1, 3) else frames[:, :1]
    return shown.permute(0, 2, 3, 1).numpy()


def _files_by_row(config: Config, data: MultimodalData) -> dict[tuple[str, int], str]:
    """Return (modality, row of the store) -> file. Planted corruption may give a sample the row, and so the file, of another."""
    if data.folder is None:
        return {}
    clean = data
    if config.corruption.corruption > 0:
        clean = read_data(config.replace(corruption=0.0))
    number = {sample: place for place, sample in enumerate(clean.table["sample"])}
    files = {}
    for split in (clean.whole or clean).splits.values():
        assert split.rows is not None
        for name, rows in split.rows.items():
            column = clean.table[f"{name}_file"]
            for sample, row in zip(split.samples, rows.tolist(), strict=True):
                files[name, row] = column[number[sample]]
    return files


def page_text(
    run: TrackedRun,
    stage: TrackedRun,
    data: MultimodalData,
    table: Table,
    worst: int,
    against: TrackedRun | None,
) -> PageText:
    """Return what the page says beside the table."""
    record = run.read()
    tags: Mapping[str, Any] = record.data.tags
    epochs = refit_epochs(stage)
    modalities = list(data.specs)
    sentences = []
    if epochs:
        final = stage.read().data
        kind = stage.saved_config()["mixture"]
        sentences = [_plain(line) for line in gap_findings(final.metrics, None, modalities, kind)]
    doubted = table[(table["split"] == "train") & (table["doubted"] != "")]["doubted"].value_counts()
    if len(doubted):
        parts = ", ".join(f"{name} of {count}" for name, count in doubted.items())
        sentences.append(f"Doubted among the {len(data.splits['train'])} training samples: {parts}.")
    facts = {
        "run": run.run_id[:8],  # the title names it
        "method": tags.get("mm.method", ""),
        "data": data.name,
        "seed": tags.get("mm.seed", ""),
    }
    name = ""
    if against is not None:
        other = against.read()
        name = f"{other.info.run_name} ({against.run_id[:8]})"
        facts["against"] = f"{name}, {other.data.tags.get('mm.method', '')}"
    return PageText(
        title=f"Samples of {record.info.run_name}",
        facts={key: value for key, value in facts.items() if value},
        sentences=sentences,
        modalities=modalities,
        epochs=epochs,
        flow=flow_svg(stage, epochs),
        notes=[BRANCHES] if tags.get("mm.unimodal") == "branches" else [],
        against=name,
        embedded=worst,
    )


def _plain(line: str) -> str:
    """Return an item of a Markdown list as plain text."""
    return line.removeprefix("- ").replace("**", "").replace("`", "")


def flow_svg(stage: TrackedRun, epochs: Sequence[int]) -> str:
    """Return the figure of how training samples move between the components; empty if there are fewer than two refits."""
    return _flow_figure({epoch: read_gap_table(stage, epoch)["posterior_imbalanced"].to_numpy() for epoch in epochs})


def _flow_figure(posteriors: Mapping[int, np.ndarray]) -> str:
    if len(posteriors) < 2:
        return ""
    steps = [counts for _, counts in flow(posteriors)]
    return svg_text(component_flow(list(posteriors), steps, title="by the mixture of each refit"))
