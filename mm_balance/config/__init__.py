"""Parameters: declared once in ``options``, read by ``parse``, filled from presets by ``resolve``."""

from mm_balance.config.options import AUTO, ENTRY_POINTS, NONE, Config, Option, entry_point_options, option_of, options
from mm_balance.config.parse import format_value, parse_arguments, parse_value
from mm_balance.config.resolve import (
    SEEN_BY_THE_NETWORK,
    balanced_fusion_weight,
    fingerprint_settings,
    read_preset,
    resolve,
    restore,
)

__all__ = [
    "AUTO",
    "ENTRY_POINTS",
    "NONE",
    "SEEN_BY_THE_NETWORK",
    "Config",
    "Option",
    "balanced_fusion_weight",
    "entry_point_options",
    "fingerprint_settings",
    "format_value",
    "option_of",
    "options",
    "parse_arguments",
    "parse_value",
    "read_preset",
    "resolve",
    "restore",
]
