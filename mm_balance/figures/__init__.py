"""Figures from plain data: each function returns a ``matplotlib.figure.Figure`` and writes no file."""

from matplotlib.figure import Figure

from mm_balance.figures.contact_sheet import SheetSample, contact_sheet
from mm_balance.figures.curves import unimodal_accuracy
from mm_balance.figures.density import mixture_density
from mm_balance.figures.evolution import mixture_evolution
from mm_balance.figures.flow import component_flow
from mm_balance.figures.restyle import restyle
from mm_balance.figures.style import palette, save_png, svg_text

__all__ = [
    "Figure",
    "SheetSample",
    "component_flow",
    "contact_sheet",
    "mixture_density",
    "mixture_evolution",
    "palette",
    "restyle",
    "save_png",
    "svg_text",
    "unimodal_accuracy",
]
