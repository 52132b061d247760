"""Figures from plain data: each function returns a ``matplotlib.figure.Figure`` and writes no file."""

from matplotlib.figure import Figure

from mm_balance.figures.contact_sheet import SheetSample, contact_sheet
from mm_balance.figures.curves import unimodal_accuracy
from mm_balance.figures.density import mixture_density
from mm_balance.figures.evaluation import Reliability, confusion_matrices, gap_per_class, reliability_diagram
from mm_balance.figures.evolution import mixture_evolution
from mm_balance.figures.restyle import restyle
from mm_balance.figures.style import render, save_png

__all__ = [
    "Figure",
    "Reliability",
    "SheetSample",
    "confusion_matrices",
    "contact_sheet",
    "gap_per_class",
    "mixture_density",
    "mixture_evolution",
    "reliability_diagram",
    "render",
    "restyle",
    "save_png",
    "unimodal_accuracy",
]
