"""The report as text: one HTML file without any other, and Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from mm_balance.escaping import markdown_text
from mm_balance.report.table import ReportTable, markdown


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        name: of its files.
        title: its heading.
        text: what it shows, one or two sentences.
        files: suffix (``.svg``, ``.pdf``, ``.png``) -> content.
    """

    name: str
    title: str
    text: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: heading.
        facts: name -> text: experiments, time, versions.
        sentences: findings in words, plain text.
        tables: in order; the last ones may be long.
        figures: in order.
        runs: one row per run, at the end.
    """

    title: str
    facts: Mapping[str, str]
    sentences: Sequence[str]
    tables: Sequence[ReportTable]
    figures: Sequence[ReportFigure]
    runs: ReportTable
    warnings: Sequence[str] = field(default_factory=tuple)


def report_html(report: Report) -> str:
    """Write the report as one HTML file: figures are inside it, every text is escaped; for screens, phones and print."""
    environment = Environment(
        loader=PackageLoader("mm_balance.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {
        figure.name: "data:image/svg+xml;base64," + base64.b64encode(figure.files[".svg"]).decode("ascii")
        for figure in report.figures
    }
    return environment.get_template("report.html").render(report=report, pictures=pictures)


def report_markdown(report: Report, folder: str) -> str:
    """Write the report as Markdown.

    Args:
        report: the report.
        folder: path of the figures, relative to the file.
    """
    lines = [
        f"# {markdown_text(report.title)}",
        "",
        markdown_text(", ".join(f"{name}: {text}" for name, text in report.facts.items())) + ".",
        "",
        *(f"- {markdown_text(sentence)}" for sentence in report.sentences),
        *(f"- **{markdown_text(warning)}**" for warning in report.warnings),
        "",
        *(markdown(table) for table in report.tables),
    ]
    for figure in report.figures:
        title = markdown_text(figure.title)
        lines += [f"## {title}", "", markdown_text(figure.text), "", f"![{title}]({folder}/{figure.name}.png)", ""]
    return "\n".join(lines)
