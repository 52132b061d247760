"""What MLflow loads a logged model with: tables of pandas in and out, errors that the scoring server passes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from mm_balance.errors import UserError
from mm_balance.models import MultimodalNetwork
from mm_balance.serving import ServedModel


class LoadedModel:
    """A logged model behind MLflow's interface.

    Args:
        served: the model with the recipe of its inputs.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served

    def get_raw_model(self) -> MultimodalNetwork:
        """Return the network; MLflow's loaded model calls this method."""
        return self.served.model

    def predict(
        self, inputs: pd.DataFrame | Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict the samples of a table.

        Args:
            inputs: one column per modality and one row per sample; a cell is the path of a file, its bytes, these as text
                (``data:;base64,...``), or an array as the network takes it.
            params: MLflow's inference parameters; unused.

        Returns:
            One row per sample with the index of ``inputs``; columns as in ``ServedModel.predict``.

        Raises:
            MlflowException: an input cannot be used; the message names row, column and file.
        """
        columns, index = _columns(inputs, self.served.modalities)
        try:
            answers = self.served.predict(columns, index)
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(answers, index=index)


def _columns(
    inputs: pd.DataFrame | Mapping[str, Any], modalities: tuple[str, ...]
) -> tuple[dict[str, list[Any]], list[Any] | None]:
    """Return the columns of a table and its index; None = none, the rows are counted.

    MLflow makes of a dictionary of lists of strings a single row with lists as cells; they are unpacked again.
    """
    columns = {str(name): list(inputs[name]) for name in inputs}
    given = [columns[name][0] for name in modalities if len(columns.get(name, ())) == 1]
    packed = [isinstance(cell, list) and all(isinstance(item, str) for item in cell) for cell in given]
    if packed and all(packed):
        return {name: column[0] for name, column in columns.items() if name in modalities}, None
    return columns, inputs.index.tolist() if isinstance(inputs, pd.DataFrame) else None


def _load_pyfunc(path: str) -> LoadedModel:
    return LoadedModel(ServedModel.load(Path(path)))
