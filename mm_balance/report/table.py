"""One table of a report, and its text as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mm_balance.escaping import markdown_text, spreadsheet_cell

LEFT, RIGHT = "left", "right"
MISSING = "missing"


@dataclass(frozen=True)
class Cell:
    """What a cell shows.

    Attributes:
        text: plain text.
        strong: whether it is emphasized.
    """

    text: str
    strong: bool = False


EMPTY = Cell("")


@dataclass(frozen=True)
class Column:
    """A column: its heading, the side that it is aligned to, and whether LaTeX leaves it out (ids, long texts)."""

    title: str
    side: str = RIGHT
    web_only: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table.

    Attributes:
        name: of its files.
        title: its heading.
        columns: its columns.
        rows: cells of each row.
        numbers: one line of plain values per row, for CSV: full precision, every interval, run ids.
        notes: sentences below it, plain text.
        incomplete: numbers of rows for which runs are missing.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    numbers: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)
    incomplete: frozenset[int] = frozenset()


def markdown(table: ReportTable) -> str:
    """Return the table with heading and notes as Markdown."""
    lines = [
        f"## {_escaped(table.title)}",
        "",
        _line([_escaped(column.title) for column in table.columns]),
        "|" + "|".join("--:" if column.side == RIGHT else "---" for column in table.columns) + "|",
    ]
    for row in table.rows:
        lines.append(_line([f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text) for cell in row]))
    if table.notes:
        lines += ["", *(f"- {_escaped(note)}" for note in table.notes)]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    """Escape what Markdown would read as a cell's border, emphasis or HTML."""
    return text if _is_number(text) else markdown_text(text)


def _is_number(text: str) -> bool:
    """Whether the text is a value with its interval, where brackets are no Markdown."""
    return re.fullmatch(r"[-+0-9.,±\[\] %a-z]*", text) is not None


def csv_text(table: ReportTable) -> str:
    """Return the table's numbers as CSV; no text in it is a formula to a spreadsheet."""
    frame = pd.DataFrame(list(table.numbers)).map(spreadsheet_cell).rename(columns=spreadsheet_cell)
    return frame.to_csv(index=False, lineterminator="\n")


def latex(table: ReportTable) -> str:
    """Return the table as LaTeX; it needs the packages ``booktabs`` and ``graphicx`` (to fit the width of the text)."""
    shown = [number for number, column in enumerate(table.columns) if not column.web_only]
    head = [table.columns[number].title for number in shown]
    frame = pd.DataFrame(
        [[_latex_cell(row[number]) for number in shown] for row in table.rows],
        columns=_unique([_latex_heading(title) for title in head]),
    )
    body = frame.style.hide(axis="index").to_latex(
        hrules=True, column_format="".join("r" if table.columns[number].side == RIGHT else "l" for number in shown)
    )
    notes = " ".join(_latex_text(note) for note in table.notes)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex_text(table.title)}}}",
            f"\\label{{tab:{table.name.replace('_', '-')}}}",
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            body.rstrip("\n") + "}",
            *([f"\\\\[2pt]\\parbox{{\\linewidth}}{{\\footnotesize {notes}}}"] if notes else []),
            "\\end{table}",
            "",
        ]
    )


LONGEST_HEADING = 11
"""Characters of a LaTeX heading in one line."""


def _latex_heading(title: str) -> str:
    """Set a long heading in lines, broken at spaces: headings, not numbers, make tables too wide for a page."""
    lines: list[str] = []
    for word in title.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= LONGEST_HEADING:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    stacked = r" \\ ".join(_latex_text(line) for line in lines)
    return stacked if len(lines) == 1 else f"\\shortstack{{{stacked}}}"


def _unique(titles: Sequence[str]) -> list[str]:
    """Make titles distinct by invisible empty groups: a data frame with styles needs distinct columns."""
    return [title + "{}" * titles[:number].count(title) for number, title in enumerate(titles)]


def _latex_cell(cell: Cell) -> str:
    text = _latex_text(cell.text)
    return f"\\textbf{{{text}}}" if cell.strong else text


SPECIAL = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "±": "$\\pm$", "−": "$-$", "→": "$\\to$",
    "≥": "$\\geq$", "×": "$\\times$", "|": "$|$",
}  # fmt: skip


def _latex_text(text: str) -> str:
    """Escape a text for LaTeX, on one line; a minus sign before a number is set as one.

    A bracket or star that begins a row would be an argument of the ``\\\\`` before it.
    """
    line = " ".join(text.split())
    escaped = "".join(SPECIAL.get(character, character) for character in line)
    if line.startswith(("[", "*")):
        escaped = "{}" + escaped
    return re.sub(r"(?<![\w.])-(?=[\d.])", "$-$", escaped)
