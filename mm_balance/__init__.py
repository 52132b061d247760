"""MM-Balance: measure and mend multimodal imbalance.

What people with their own training loop need. Everything is loaded on first use: ``import mm_balance`` loads no PyTorch, and nothing
here loads MLflow or Optuna, before ``log_refit`` is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm_balance.data.from_dataset import InputColumn, from_dataset
    from mm_balance.functional.adaptive import AdaptiveLoss, LossWeights, adaptive_loss
    from mm_balance.functional.gap import modality_gap
    from mm_balance.functional.mixture import Mixture, fit_mixture
    from mm_balance.measuring import Measured, log_refit, measure
    from mm_balance.methods import METHODS
    from mm_balance.running import Result, run

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "AdaptiveLoss",
    "InputColumn",
    "LossWeights",
    "Measured",
    "Mixture",
    "Result",
    "__version__",
    "adaptive_loss",
    "fit_mixture",
    "from_dataset",
    "log_refit",
    "measure",
    "modality_gap",
    "run",
]

_MODULES = {
    "METHODS": "mm_balance.methods",
    "AdaptiveLoss": "mm_balance.functional.adaptive",
    "InputColumn": "mm_balance.data.from_dataset",
    "LossWeights": "mm_balance.functional.adaptive",
    "Measured": "mm_balance.measuring",
    "Mixture": "mm_balance.functional.mixture",
    "Result": "mm_balance.running",
    "adaptive_loss": "mm_balance.functional.adaptive",
    "fit_mixture": "mm_balance.functional.mixture",
    "from_dataset": "mm_balance.data.from_dataset",
    "log_refit": "mm_balance.measuring",
    "measure": "mm_balance.measuring",
    "modality_gap": "mm_balance.functional.gap",
    "run": "mm_balance.running",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
