"""The report in a real browser: at the width of a phone nothing is cut off, figures are drawn, and no text of the runs is run."""

import pytest

from mm_balance.figures import Interval, difference_intervals, svg_text
from mm_balance.report.page import Report, ReportFigure, report_html
from mm_balance.report.table import Cell, Column, ReportTable
from tests.helpers.browser import BROWSER, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="NO BROWSER, the report's page is not tested: install chromium"),
]
EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
PHONE = 390


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with a wide table, a wide figure, and a row, a sentence and an error that would be scripts."""
    columns = [Column("method", "left"), *(Column(f"measure {number}") for number in range(12))]
    rows = [[Cell(label), *(Cell("91.2 ± 0.4 [-1.0, +2.0]") for _ in range(12))] for label in ("concat", EVIL)]
    drawn = difference_intervals(
        ["a", "b"], {name: [Interval(1, 0, 2), None] for name in ("fused", "audio", "visual")}, title="Differences"
    )
    report = Report(
        title="Report of x",
        facts={"experiments": "a_name_without_any_space_that_is_much_longer_than_the_page_of_a_phone_is_wide"},
        sentences=[EVIL],
        tables=[ReportTable("results", "Results", columns, rows, [], [EVIL])],
        figures=[ReportFigure("differences", "Differences", EVIL, {".svg": svg_text(drawn).encode()})],
        runs=ReportTable("runs", "All runs", [Column("error", "left")], [[Cell(EVIL)]]),
    )
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_html(report), "utf-8")
    return file.as_uri()


def test_on_a_phone_the_page_is_as_wide_as_the_screen_and_its_figures_are_drawn(page, tmp_path):
    with Browser(tmp_path, width=PHONE, height=844) as browser:
        browser.open(page)
        browser.wait_for("document.readyState === 'complete' && document.querySelector('figure img').naturalWidth > 0")
        assert browser.ask("document.documentElement.scrollWidth") <= PHONE
        widths = browser.ask("[...document.querySelectorAll('.wide')].map(item => [item.clientWidth, item.scrollWidth])")
        assert widths[0][0] < PHONE < widths[0][1]  # the table scrolls in a box of its own
        assert browser.ask("document.querySelector('figure img').getBoundingClientRect().right") <= PHONE
        # The first column stays in sight while the others scroll.
        browser.ask("document.querySelector('.wide').scrollLeft = 500")
        assert browser.ask("document.querySelector('.wide tbody td').getBoundingClientRect().left") >= 0
        assert browser.ask("document.querySelectorAll('script').length") == 0
        assert browser.ask("document.title") == "Report of x"
