"""MM-Balance: measure and mend multimodal imbalance.

What people with their own training loop need; importing it loads neither MLflow nor Optuna.
"""

from mm_balance.functional.adaptive import AdaptiveLoss, LossWeights, adaptive_loss
from mm_balance.functional.gap import modality_gap
from mm_balance.functional.mixture import Mixture, fit_mixture
from mm_balance.methods import METHODS

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "AdaptiveLoss",
    "LossWeights",
    "Mixture",
    "__version__",
    "adaptive_loss",
    "fit_mixture",
    "modality_gap",
]
