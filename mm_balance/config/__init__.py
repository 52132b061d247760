"""Parameters: declared once in ``options``, read by ``parse``, filled from presets by ``resolve``."""

from mm_balance.config.entry_points import ENTRY_POINTS, entry_point_options
from mm_balance.config.options import AUTO, NONE, Config, Option, option_of, options
from mm_balance.config.parse import format_value, parse_arguments, parse_value
from mm_balance.config.resolve import (
    SEEN_BY_THE_NETWORK,
    balanced_fusion_weight,
    fill,
    finish,
    read_preset,
    resolve,
    restore,
    warmup_parameters,
)
from mm_balance.config.search import SEARCHES, Dimension, declared_dimension, search_space
from mm_balance.config.study import StudyConfig, study_options

__all__ = [
    "AUTO",
    "ENTRY_POINTS",
    "NONE",
    "SEARCHES",
    "SEEN_BY_THE_NETWORK",
    "Config",
    "Dimension",
    "Option",
    "StudyConfig",
    "balanced_fusion_weight",
    "declared_dimension",
    "entry_point_options",
    "fill",
    "finish",
    "format_value",
    "option_of",
    "options",
    "parse_arguments",
    "parse_value",
    "read_preset",
    "resolve",
    "restore",
    "search_space",
    "study_options",
    "warmup_parameters",
]
