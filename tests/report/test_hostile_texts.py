"""A report whose every text is hostile: HTML in a real browser, Markdown by a real reader, LaTeX, CSV."""

import csv
import io
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt

from mm_balance.figures import Interval, confusion_matrices, difference_intervals, render, svg_text
from mm_balance.report.page import Report, ReportFigure, report_html, report_markdown
from mm_balance.report.table import Cell, Column, ReportTable, csv_text, latex
from tests.helpers.browser import BROWSER, Browser
from tests.helpers.hostile import HOSTILE


def table(name="results"):
    rows = [[Cell(text, strong=number % 2 == 0), Cell(text)] for number, text in enumerate(HOSTILE)]
    numbers = [{"method": text, text[:40]: 1.5, "value": -1.5} for text in HOSTILE]
    return ReportTable(name, HOSTILE[1], [Column(HOSTILE[3], "left"), Column(HOSTILE[4])], rows, numbers, HOSTILE)


def report():
    intervals = [Interval(1, 0, 2) for _ in HOSTILE]
    drawn = difference_intervals(HOSTILE, {"fused": intervals}, title=HOSTILE[3])
    figure = ReportFigure("differences", HOSTILE[2], HOSTILE[3], {".svg": svg_text(drawn).encode(), **render(drawn)})
    facts = {"experiments": HOSTILE[3], "right to left": HOSTILE[-3]}
    return Report(HOSTILE[3], facts, HOSTILE, [table()], [figure], table("runs"), HOSTILE)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="NO BROWSER, the report's page is not tested: install chromium")
def test_the_page_runs_and_loads_nothing_and_shows_every_text(tmp_path):
    (tmp_path / "report.html").write_text(report_html(report()), "utf-8")
    with Browser(tmp_path) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        browser.wait_for("document.readyState === 'complete' && document.querySelector('figure img').naturalWidth > 0")
        browser.ask("document.querySelector('details').open = true")
        browser.ask("document.querySelectorAll('nav a').forEach(link => link.click())")
        assert browser.requested() == []
        assert browser.ask("document.documentElement.dataset.broken ?? ''") == ""
        assert browser.ask("document.title") == HOSTILE[3]
        cells = browser.ask(
            "[...document.querySelectorAll('#results tbody td:first-child')].map(cell => cell.textContent)"
        )
        assert cells == HOSTILE


def test_markdown_has_no_link_picture_or_html_but_its_own_figure():
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(report_markdown(report(), "figures"))
    parts = [part for token in tokens for part in (token, *(token.children or ()))]
    assert not [
        part for part in parts if part.type in ("html_inline", "html_block", "link_open", "fence", "code_block")
    ]
    assert [part.attrs["src"] for part in parts if part.type == "image"] == ["figures/differences.png"]
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type == "td_open"]
    assert len(rows) == 1 + len(HOSTILE)
    assert len(cells) == 2 * len(HOSTILE)


def test_latex_has_no_command_but_those_of_tables():
    text = latex(table())
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    assert commands <= {
        "begin", "end", "centering", "caption", "label", "resizebox", "ifdim", "width", "linewidth", "else", "fi", "toprule",
        "midrule", "bottomrule", "textbf", "shortstack", "parbox", "footnotesize", "textbackslash", "textasciitilde",
        "textasciicircum", "usepackage", "to",
    }  # fmt: skip
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    assert body.count("\\\\\n") == len(HOSTILE)  # one line of the table for each
    assert not re.search(
        r"(?<!\\)[#%]|(?<!\\)\$(?![<>|]\$|\\|-\$|$)",
        body.replace("$<$", "").replace("$>$", "").replace("$|$", "").replace("$-$", ""),
    )
    assert not re.search(r"\\\\\s*[\[*]", text.replace("\\\\[2pt]", ""))


def test_a_line_break_in_a_text_is_none_in_latex():
    broken = ReportTable("t", "t\n\n\\end{table}", [Column("a\n\nb", "left")], [[Cell("a\n\n% b")]], [], ["a\r\nb"])
    assert "\n\n" not in latex(broken).rstrip("\n")


def test_csv_has_no_formula():
    rows = list(csv.reader(io.StringIO(csv_text(table()))))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if re.match(r"[=@\t\r]|[+-](?![\d.]+$)", cell)]
    assert "-1.5" in cells


def test_figures_draw_dollars_as_they_are():
    """Between two dollars matplotlib reads mathematics, and fails if it is none."""
    for figure in (
        difference_intervals(["$x^{$", "costs 5$ or 6$"], {"fused": [Interval(1, 0, 2)] * 2}, title="$\\frac$"),
        confusion_matrices({"fused": np.eye(2, dtype=int)}, ["$x^{$", "b"], title="$\\frac$", caption="$\\input$"),
    ):
        assert render(figure)[".png"].startswith(b"\x89PNG")
        assert "$x^{$" in svg_text(figure)
