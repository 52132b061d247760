"""Save and load trained models (safetensors + JSON) and predict NumPy arrays. No pickle, no MLflow import.

MLflow calls ``_load_pyfunc`` of this module when it loads a logged model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mm_balance.errors import UserError, one_line
from mm_balance.functional.labels import class_probabilities
from mm_balance.models.network import MultimodalNetwork

WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "description.json"
BATCH = 256


def save_model(
    model: MultimodalNetwork, classes: tuple[str, ...], folder: Path, *, several_classes: bool = False
) -> None:
    """Write weights and description of ``model`` into ``folder`` (created if missing).

    ``several_classes``: it was trained on samples with several true classes, so probabilities are those of the sigmoid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    description = {"network": model.describe(), "classes": list(classes), "several_classes": several_classes}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")


class Predictor:
    """Predict NumPy arrays with a trained network.

    Attributes:
        classes: class names in the order of the probabilities.
        modalities: names of the inputs.
        several_classes: whether samples may have several true classes.
    """

    def __init__(self, model: MultimodalNetwork, classes: tuple[str, ...], *, several_classes: bool = False) -> None:
        self.model = model.eval()
        self.several_classes = several_classes
        self.classes = classes
        self.modalities = model.modalities

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Load a model written by ``save_model``.

        Raises:
            UserError: something that it needs is not installed, or the code of an encoder or head has changed since.
        """
        description = json.loads((folder / DESCRIPTION_FILE).read_text("utf-8"))
        model = MultimodalNetwork.from_description(description["network"])
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except RuntimeError as error:
            outside = (
                ", ".join(name for name in model.encoder_modules() if not name.startswith("mm_balance.")) or "none"
            )
            raise UserError(
                f"the weights do not fit the network that is built here ({one_line(str(error))[:200]}): the code of its encoders from "
                f"outside ({outside}) or of its head is another than when it was logged; load it in a new process"
            ) from error
        # As in training: a different memory format selects different kernels, and sums differ in their last bits.
        return cls(
            model.to(memory_format=torch.channels_last),
            tuple(description["classes"]),
            several_classes=description.get("several_classes", False),
        )

    def get_raw_model(self) -> MultimodalNetwork:
        """Return the network; MLflow's loaded model calls this method."""
        return self.model

    @torch.no_grad()
    def predict(
        self, inputs: Mapping[str, np.ndarray], params: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Predict class probabilities of a batch.

        Args:
            inputs: modality -> ``(batch, *shape)``, in the recipe's units (spectrogram values; images uint8 0-255 or
                float 0-1).
            params: MLflow's inference parameters; unused.

        Returns:
            ``fused`` and one entry per modality: ``(batch, classes)`` float32; rows sum to 1 unless samples have several classes.

        Raises:
            ValueError: a modality is missing or has the wrong shape or batch size.
        """
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.modalities if name in inputs
        }
        sizes = {name: len(value) for name, value in tensors.items()}
        if set(tensors) != set(self.modalities) or len(set(sizes.values())) != 1:
            raise ValueError(f"give one array per modality {list(self.modalities)} with equal batch sizes; got {sizes}")
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ("fused", *self.modalities)}
        for start in range(0, next(iter(sizes.values())), BATCH):
            output = self.model({name: value[start : start + BATCH] for name, value in tensors.items()})
            for name, logits in {"fused": output.fused, **output.unimodal}.items():
                parts[name].append(class_probabilities(logits, several_classes=self.several_classes).numpy())
        return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def _load_pyfunc(path: str) -> Predictor:
    return Predictor.load(Path(path))
