"""Writes the files of a report, and logs them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mm_balance import names
from mm_balance.escaping import markdown_text
from mm_balance.report.page import Report, report_html, report_markdown
from mm_balance.report.table import csv_text, latex, markdown
from mm_balance.tracking.runs import TrackedRun


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report and return their paths: ``report.html``, ``report.md``, ``tables/``, ``figures/``."""
    tables, figures = folder / names.TABLES_FOLDER, folder / names.FIGURES_FOLDER
    for place in (tables, figures):
        place.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {
        folder / names.REPORT_FILE: report_html(report).encode(),
        folder / names.REPORT_TEXT: report_markdown(report, names.FIGURES_FOLDER).encode(),
        tables / f"{report.runs.name}.csv": csv_text(report.runs).encode(),
    }
    for table in report.tables:
        files[tables / f"{table.name}.csv"] = csv_text(table).encode()
        files[tables / f"{table.name}.tex"] = latex(table).encode()
        files[tables / f"{table.name}.md"] = markdown(table).encode()
    for figure in report.figures:
        files |= {figures / f"{figure.name}{suffix}": content for suffix, content in figure.files.items()}
    for path, content in files.items():
        path.write_bytes(content)
    return list(files)


def publish_report(report: Report, paths: Iterable[Path], folder: Path, run: TrackedRun) -> None:
    """Log the files of a report on ``run``, and its findings as the run's description."""
    for path in paths:
        place = path.parent.relative_to(folder).as_posix()
        run.log_file(path, "" if place == "." else place)
    lines = [markdown_text(line) for line in (*report.warnings, *report.sentences)]
    run.describe(
        "\n".join(
            [
                f"**{markdown_text(report.title)}**",
                "",
                *(f"- {line}" for line in lines),
                "",
                f"Artifact: `{names.REPORT_FILE}`.",
            ]
        )
    )
