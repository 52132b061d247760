"""One method = one file behind one small interface. Adding one: a file, a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mm_balance.errors import UserError
from mm_balance.methods.agm import Agm
from mm_balance.methods.amco import Amco
from mm_balance.methods.base import Inspector, Method
from mm_balance.methods.cml import Cml
from mm_balance.methods.concat import Concat
from mm_balance.methods.concat_unimodal import ConcatUnimodal
from mm_balance.methods.diagnose_relearn import DiagnoseRelearn
from mm_balance.methods.focal import Focal
from mm_balance.methods.g_blending import GBlending
from mm_balance.methods.gap_mixture import GapMixture
from mm_balance.methods.greedy import Greedy
from mm_balance.methods.lfm import Lfm
from mm_balance.methods.mbsd import Mbsd
from mm_balance.methods.mla import Mla
from mm_balance.methods.mmcosine import MMCosine
from mm_balance.methods.mmpareto import MMPareto
from mm_balance.methods.ogm import Ogm, OgmGe
from mm_balance.methods.opm import Opm, OpmOgm
from mm_balance.methods.options import complete, option_lines, parse_options
from mm_balance.methods.pmr import Pmr
from mm_balance.methods.purified import Purified
from mm_balance.methods.reconboost import ReconBoost
from mm_balance.methods.sample_valuation import SampleValuation
from mm_balance.methods.umt import Umt
from mm_balance.methods.unimodal import AudioOnly, Ensemble, VisualOnly

METHODS: dict[str, type[Method]] = {
    method.name: method  # the registry: one line per method
    for method in (
        Concat,
        ConcatUnimodal,
        AudioOnly,
        VisualOnly,
        Ensemble,
        GBlending,
        Ogm,
        OgmGe,
        Greedy,
        Pmr,
        Agm,
        Mla,
        DiagnoseRelearn,
        Opm,
        OpmOgm,
        GapMixture,
        Purified,
        MMCosine,
        MMPareto,
        Umt,
        SampleValuation,
        Focal,
        Lfm,
        ReconBoost,
        Cml,
        Amco,
        Mbsd,
    )
}


def find_method(name: str) -> type[Method]:
    """The class of the method called ``name``. Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"method={name} is not known; give one of {', '.join(METHODS)}")
    return METHODS[name]


def build_method(name: str, settings: Mapping[str, Any], modalities: Sequence[str], train_samples: int) -> Method:
    """The method called ``name``; ``settings`` gives its options by name, those it lacks have their defaults.

    Raises:
        UserError: an unknown name, or more modalities than the method can handle.
    """
    method = find_method(name)
    return method(complete(method.Options, settings), modalities, train_samples)


__all__ = ["METHODS", "Inspector", "Method", "build_method", "find_method", "option_lines", "parse_options"]
