"""Figures from plain data: each function returns a ``matplotlib.figure.Figure`` and writes no file."""

from matplotlib.figure import Figure

from mm_balance.figures.comparison import Interval, accuracies_over_seeds, difference_intervals
from mm_balance.figures.contact_sheet import SheetSample, contact_sheet
from mm_balance.figures.curves import unimodal_accuracy
from mm_balance.figures.density import mixture_density
from mm_balance.figures.evaluation import Reliability, confusion_matrices, gap_per_class, reliability_diagram
from mm_balance.figures.evolution import mixture_evolution
from mm_balance.figures.flow import component_flow
from mm_balance.figures.restyle import restyle
from mm_balance.figures.style import palette, render, save_png, svg_text

__all__ = [
    "Figure",
    "Interval",
    "Reliability",
    "SheetSample",
    "accuracies_over_seeds",
    "component_flow",
    "confusion_matrices",
    "contact_sheet",
    "difference_intervals",
    "gap_per_class",
    "mixture_density",
    "mixture_evolution",
    "palette",
    "reliability_diagram",
    "render",
    "restyle",
    "save_png",
    "svg_text",
    "unimodal_accuracy",
]
