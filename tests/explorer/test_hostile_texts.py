"""The explorer of a data set whose every text is hostile, in a real browser: nothing runs, nothing is loaded, everything is shown."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from mm_balance.escaping import spreadsheet_cell
from mm_balance.explorer.media import Media, spectrogram_png
from mm_balance.explorer.page import PageText, explorer_html
from tests.helpers.browser import BROWSER, Browser
from tests.helpers.hostile import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="NO BROWSER, the explorer's page is not tested: install chromium"),
]


def page():
    count = len(HOSTILE)
    turned = [HOSTILE[0], *HOSTILE[2:], HOSTILE[1]]
    table = pd.DataFrame(
        {
            "split": "train", "sample": HOSTILE, "class": turned, "predicted": HOSTILE, "predicted_audio": HOSTILE,
            "predicted_visual": turned, "right": "none", "p_fused": 0.5, "p_audio": 0.5, "p_visual": 0.5, "loss": 0.7,
            "gap": np.linspace(-1, 1, count), "loss_audio": 0.1, "loss_visual": 0.2, "suspicion": np.arange(count, 0.0, -1),
            "suspect": "audio", "doubted": "audio", "why": HOSTILE, "movement": 0.1, "group": turned,
            "against_predicted": HOSTILE, "against_gap": 0.1, "gap_change": 0.2, "gap_by_refit": "0.100 0.500",
        }
    )  # fmt: skip
    picture = spectrogram_png(np.random.default_rng(0).random((8, 8)))
    media = {("train", name): Media({"audio": picture}, {}, {"audio": name}) for name in HOSTILE}
    facts = {name[:50]: name for name in HOSTILE}
    text = PageText(
        HOSTILE[3], facts, HOSTILE, ["audio", "visual"], [6, 9], against=HOSTILE[0], embedded=count, notes=HOSTILE
    )
    return explorer_html(table, media, text)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "explorer.html").write_text(page(), "utf-8")
    with Browser(folder) as browser:
        browser.open((folder / "explorer.html").as_uri())
        browser.wait_for("document.documentElement.dataset.ready === 'yes'")
        yield browser


def nothing_has_run(browser):
    assert browser.requested() == []
    assert browser.ask("document.documentElement.dataset.broken ?? ''") == ""


def test_nothing_runs_when_the_page_opens_and_the_texts_are_shown(browser):
    nothing_has_run(browser)
    assert browser.ask("document.title") == HOSTILE[3]
    shown = browser.ask("[...document.querySelectorAll('#samples tbody tr')].map(row => row.children[1].textContent)")
    assert sorted(shown) == sorted(HOSTILE)


def test_nothing_runs_by_searching_sorting_choosing_and_looking_at_a_sample(browser):
    browser.ask("document.querySelectorAll('#samples thead th').forEach(cell => cell.click())")
    browser.ask("document.querySelectorAll('#samples tbody tr:not(.child)').forEach(row => row.click())")
    assert browser.ask("document.querySelectorAll('.details').length") == len(HOSTILE)
    search = "const box = document.querySelector('input[type=search]'); box.value = %r; box.dispatchEvent(new Event('input'))"
    browser.ask("(() => { " + search % "onerror" + " })()")
    browser.wait_for("document.querySelector('.dt-info').textContent.includes('filtered')")
    browser.ask("(() => { " + search % "" + " })()")
    browser.ask(
        "document.querySelectorAll('[data-filter]').forEach(select => { select.selectedIndex = 1; "
        "select.dispatchEvent(new Event('change')); select.selectedIndex = 0; select.dispatchEvent(new Event('change')); })"
    )
    browser.wait_for("!document.querySelector('.dt-info').textContent.includes('filtered')")
    nothing_has_run(browser)


def test_what_is_searched_for_is_what_is_shown(browser):
    """Texts with ampersands and tags are found by their own characters."""
    for word in ("onerror", "&amp;", "<svg"):
        browser.ask(
            f"(() => {{ const box = document.querySelector('input[type=search]'); box.value = {word!r}; "
            "box.dispatchEvent(new Event('input')) })()"
        )
        found = sum(
            word in a or word in b for a, b in zip(HOSTILE, [HOSTILE[0], *HOSTILE[2:], HOSTILE[1]], strict=True)
        )
        browser.wait_for(f"/of {found} entries/.test(document.querySelector('.dt-info').textContent)")
    browser.ask(
        "(() => { const box = document.querySelector('input[type=search]'); box.value = ''; box.dispatchEvent(new Event('input')) })()"
    )


def test_the_csv_has_the_texts_and_no_formula(browser):
    """The button makes a file; its content is taken from it."""
    browser.ask(
        "window.made = null; URL.createObjectURL = (blob) => { blob.text().then(text => { window.made = text }); return 'blob:none' }"
    )
    browser.ask("document.querySelector('.dt-buttons .dt-button').click()")
    rows = [row for row in csv.reader(io.StringIO(browser.wait_for("window.made"))) if row]
    place = rows[0].index("sample")
    shown = [row[place].lstrip("\ufeff") for row in rows[1:]]
    assert sorted(shown) == sorted(map(spreadsheet_cell, HOSTILE))
    nothing_has_run(browser)
