"""A trained model that takes media files: recipe of its inputs, decoding as in training, checks, answers with class names.

Nothing here knows MLflow; ``mm_balance.tracking.served_model`` puts it behind MLflow's interface.
"""

from mm_balance.serving.answers import ServedModel, save_served_model
from mm_balance.serving.recipes import ModalityRecipe, modality_recipes

__all__ = ["ModalityRecipe", "ServedModel", "modality_recipes", "save_served_model"]
