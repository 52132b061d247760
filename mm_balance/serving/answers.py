"""A trained model with the recipe of its inputs: from a table of media to classes, probabilities and warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm_balance.errors import UserError
from mm_balance.functional.labels import class_probabilities
from mm_balance.models import MultimodalNetwork
from mm_balance.models.serving import Predictor, save_model
from mm_balance.serving.checks import warnings_of_values
from mm_balance.serving.reading import CellError, Reading, finish, read_cell
from mm_balance.serving.recipes import ModalityRecipe

INPUTS_FILE = "inputs.json"
BATCH = 64
"""Samples that are in memory at once."""
SURE = 0.5
"""Modalities disagree when they name different classes, each with more than this probability."""
SHOWN_PROBLEMS = 3
FUSED = "fused"


def save_served_model(
    model: MultimodalNetwork,
    classes: tuple[str, ...],
    recipes: Mapping[str, ModalityRecipe],
    folder: Path,
    *,
    several_classes: bool = False,
) -> None:
    """Write weights, description and the recipe of the inputs into ``folder`` (created if missing). No pickle."""
    save_model(model, classes, folder, several_classes=several_classes)
    saved = {"modalities": {name: recipe.to_json() for name, recipe in recipes.items()}}
    (folder / INPUTS_FILE).write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", "utf-8")


class ServedModel:
    """A trained network that takes files, bytes or arrays.

    Attributes:
        model: the network.
        classes: class names in the order of the logits.
        modalities: names of the inputs, in order.
        recipes: modality -> how its inputs are made.
        several_classes: whether samples may have several true classes.
    """

    def __init__(
        self,
        model: MultimodalNetwork,
        classes: tuple[str, ...],
        recipes: Mapping[str, ModalityRecipe],
        *,
        several_classes: bool = False,
    ) -> None:
        self.several_classes = several_classes
        self.model = model.eval()
        self.classes = classes
        self.modalities = model.modalities
        self.recipes = dict(recipes)

    @classmethod
    def load(cls, folder: Path) -> ServedModel:
        """Load what ``save_served_model`` wrote."""
        predictor = Predictor.load(folder)
        saved = json.loads((folder / INPUTS_FILE).read_text("utf-8"))["modalities"]
        recipes = {name: ModalityRecipe.from_json(saved[name]) for name in predictor.modalities}
        return cls(predictor.model, predictor.classes, recipes, several_classes=predictor.several_classes)

    def predict(self, columns: Mapping[str, Sequence[Any]], rows: Sequence[Any] | None = None) -> dict[str, list[Any]]:
        """Predict the samples of a table.

        Args:
            columns: modality -> one cell per sample, see ``read_cell``. Other columns are ignored.
            rows: names of the samples in error messages; None = their numbers.

        Returns:
            Columns with one value per sample: ``class``, ``probability``; for each modality alone ``class_<modality>``,
            ``probability_<modality>``; ``probabilities``, ``probabilities_<modality>`` (class name -> probability);
            ``disagreement`` (largest total variation between the probabilities of two modalities: 0 = equal, 1 = nothing in
            common), ``modalities_disagree`` (two modalities name different classes, each with a probability above 0.5);
            ``warning`` (empty = none).
            Where samples may have several true classes, ``class`` is the most probable one, and ``classes``, ``classes_<modality>``
            are all above 0.5 (a list, possibly empty); ``disagreement`` is the largest difference between two modalities in the
            probability of any class, and they disagree if it is above 0.5.

        Raises:
            UserError: a column is missing, columns differ in length, or cells cannot be read; all are read before the error.
        """
        missing = [name for name in self.modalities if name not in columns]
        if missing:
            raise UserError(
                f"the table has no column {', '.join(missing)}; this model needs {', '.join(self.modalities)}, one row per sample"
            )
        cells = {name: list(columns[name]) for name in self.modalities}
        sizes = {name: len(column) for name, column in cells.items()}
        if len(set(sizes.values())) != 1:
            raise UserError(f"the columns differ in length: {sizes}; give one value per sample in each")
        count = sizes[self.modalities[0]]
        rows = range(count) if rows is None else rows
        answers: dict[str, list[Any]] = {name: [] for name in self.columns()}
        problems: list[str] = []
        for start in range(0, count, BATCH):
            part = {name: column[start : start + BATCH] for name, column in cells.items()}
            readings = self._read(part, rows[start : start + BATCH], problems)
            if not problems:
                for name, values in self._answer(readings).items():
                    answers[name] += values
        if problems:
            more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise UserError(f"{len(problems)} input(s) cannot be used: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}")
        return answers

    def columns(self) -> list[str]:
        """Return the columns of an answer, in order."""
        alone = [f"{what}_{name}" for name in self.modalities for what in ("class", "probability")]
        every = ["probabilities", *(f"probabilities_{name}" for name in self.modalities)]
        several = ["classes", *(f"classes_{name}" for name in self.modalities)] if self.several_classes else []
        return ["class", "probability", *alone, *several, *every, "disagreement", "modalities_disagree", "warning"]

    def _read(
        self, cells: Mapping[str, list[Any]], rows: Sequence[Any], problems: list[str]
    ) -> dict[str, list[Reading]]:
        """Read a batch; what cannot be read is added to ``problems``."""
        readings: dict[str, list[Reading]] = {name: [] for name in cells}
        for name, column in cells.items():
            for row, cell in zip(rows, column, strict=True):
                try:
                    readings[name].append(read_cell(cell, self.recipes[name]))
                except CellError as error:
                    problems.append(f"row {row}, column {name}{_shown(cell)}: {error}")
        return readings

    @torch.no_grad()
    def _answer(self, readings: Mapping[str, list[Reading]]) -> dict[str, list[Any]]:
        inputs = {name: finish(column, self.recipes[name]) for name, column in readings.items()}
        output = self.model(inputs)
        probabilities = {
            name: class_probabilities(logits, several_classes=self.several_classes)
            for name, logits in {FUSED: output.fused, **output.unimodal}.items()
        }
        answers: dict[str, list[Any]] = {}
        for name, values in probabilities.items():
            suffix = "" if name == FUSED else f"_{name}"
            best = values.max(1)
            answers[f"class{suffix}"] = [self.classes[index] for index in best.indices.tolist()]
            answers[f"probability{suffix}"] = best.values.tolist()
            if self.several_classes:
                answers[f"classes{suffix}"] = [
                    [self.classes[index] for index in row.nonzero().flatten().tolist()] for row in values > SURE
                ]
            answers[f"probabilities{suffix}"] = [dict(zip(self.classes, row, strict=True)) for row in values.tolist()]
        pairs = list(combinations([probabilities[name] for name in self.modalities], 2))
        distance = _largest_difference if self.several_classes else _distance
        distances = torch.stack([distance(*pair) for pair in pairs]).amax(0)
        answers["disagreement"] = distances.tolist()
        differ = (
            distances > SURE if self.several_classes else torch.stack([_surely_differ(*pair) for pair in pairs]).any(0)
        )
        answers["modalities_disagree"] = differ.tolist()
        answers["warning"] = self._warnings(inputs, readings)
        return answers

    def _warnings(self, inputs: Mapping[str, Tensor], readings: Mapping[str, list[Reading]]) -> list[str]:
        texts: list[list[str]] = [[] for _ in readings[self.modalities[0]]]
        for name, values in inputs.items():
            of_values = warnings_of_values(values, self.model.specs[name], self.recipes[name])
            for text, reading, warnings in zip(texts, readings[name], of_values, strict=True):
                text += [f"{name}: {warning}" for warning in [*reading.warnings, *warnings]]
        return ["; ".join(text) for text in texts]


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Total variation between rows of probabilities, ``(batch,)``."""
    return (first - second).abs().sum(1) / 2


def _largest_difference(first: Tensor, second: Tensor) -> Tensor:
    """Largest difference in the probability of any class, ``(batch,)``."""
    return (first - second).abs().amax(1)


def _surely_differ(first: Tensor, second: Tensor) -> Tensor:
    best, other = first.max(1), second.max(1)
    return (best.indices != other.indices) & (best.values > SURE) & (other.values > SURE)


def _shown(cell: Any) -> str:
    """Return a cell in brackets if it is short text, such as a path."""
    return f" ({cell})" if isinstance(cell, str | Path) and len(str(cell)) <= 200 else ""
