"""The page: one file, every text escaped."""

import re

from mm_balance.report.page import Report, ReportFigure, report_html, report_markdown
from mm_balance.report.table import Cell, Column, ReportTable

EVIL = "</td><script>document.title='broken'</script>"


def report():
    table = ReportTable(
        "results", f"Results {EVIL}", [Column(EVIL)], [[Cell(EVIL, strong=True)]], [], [EVIL], frozenset({0})
    )
    runs = ReportTable("runs", "All runs", [Column("run")], [[Cell("1")]])
    figure = ReportFigure("differences", EVIL, EVIL, {".svg": b"<svg></svg>", ".png": b""})
    return Report(EVIL, {"experiments": EVIL}, [EVIL], [table], [figure], runs, [EVIL])


def test_the_page_needs_no_other_file_and_escapes_every_text():
    page = report_html(report())
    assert "<script" not in page
    assert not re.search(r'(src|href)\s*=\s*"(?!data:|#)', page)
    assert page.count("&lt;script&gt;") >= 8
    assert 'name="viewport"' in page


def test_markdown_links_the_figures_in_their_folder():
    text = report_markdown(report(), "figures")
    assert "](figures/differences.png)" in text
    assert "| **&lt;/td&gt;&lt;script&gt;" in text
