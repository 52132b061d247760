"""Parameters: declared once in ``parameters``, ``study``, ``reproduction`` and ``repair``; parsed and completed in ``resolve``."""

from mm_balance.config.option import AUTO, NONE, MethodOptions, Option, declared_in, param
from mm_balance.config.parameters import (
    ADAPTIVE_METHOD,
    GROUPS,
    STAGES,
    Config,
    GapMixtureOptions,
    InputConfig,
    options,
    stage_options,
    warmup_parameters,
)
from mm_balance.config.per_modality import by_modality, chosen_modalities, scales_by_modality
from mm_balance.config.repair import RepairConfig, repair_options
from mm_balance.config.reproduction import ReproductionConfig, reproduction_options
from mm_balance.config.resolve import (
    apply_preset,
    format_value,
    parse_arguments,
    parse_method_options,
    parse_value,
    read_preset,
    resolve,
    restore,
    validate,
)
from mm_balance.config.search import SEARCHES, Dimension, declared_dimension, search_space
from mm_balance.config.study import StudyConfig, study_options

__all__ = [
    "ADAPTIVE_METHOD",
    "AUTO",
    "GROUPS",
    "NONE",
    "SEARCHES",
    "STAGES",
    "Config",
    "Dimension",
    "GapMixtureOptions",
    "InputConfig",
    "MethodOptions",
    "Option",
    "RepairConfig",
    "ReproductionConfig",
    "StudyConfig",
    "apply_preset",
    "by_modality",
    "chosen_modalities",
    "declared_dimension",
    "declared_in",
    "format_value",
    "options",
    "param",
    "parse_arguments",
    "parse_method_options",
    "parse_value",
    "read_preset",
    "repair_options",
    "reproduction_options",
    "resolve",
    "restore",
    "scales_by_modality",
    "search_space",
    "stage_options",
    "study_options",
    "validate",
    "warmup_parameters",
]
