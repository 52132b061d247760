"""Options of methods that differ from the declared defaults: the one place for options adapted to, or chosen on, a data set.

Options that were chosen on validation belong here too: data set -> method -> option -> value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Mapping[str, Any]]
"""Method -> option -> value."""

SHORT_STAGE: Options = {"diagnose_relearn": {"every": 4}, "opm": {"start_epoch": 2}, "opm_ogm": {"start_epoch": 2}}
"""For training of some twenty epochs: the defaults, which are for a hundred, would begin too late to have an effect."""

CHOSEN: Mapping[str, Options] = {"digits": SHORT_STAGE, "grid": SHORT_STAGE}
"""Data set -> options of its rows; one that is not listed has the declared defaults."""
