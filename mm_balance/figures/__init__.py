"""Figures from plain data: each function returns a ``matplotlib.figure.Figure`` and writes no file."""

from matplotlib.figure import Figure

from mm_balance.figures.contact_sheet import SheetSample, contact_sheet
from mm_balance.figures.curves import unimodal_accuracy
from mm_balance.figures.density import mixture_density
from mm_balance.figures.evolution import mixture_evolution
from mm_balance.figures.restyle import restyle
from mm_balance.figures.style import save_png

__all__ = [
    "Figure",
    "SheetSample",
    "contact_sheet",
    "mixture_density",
    "mixture_evolution",
    "restyle",
    "save_png",
    "unimodal_accuracy",
]
