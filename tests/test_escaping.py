"""Texts of data sets in Markdown and CSV: shown as they are by a real reader of Markdown, and no formula to a spreadsheet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mm_balance.escaping import markdown_code, markdown_text, spreadsheet_cell
from tests.helpers.hostile import HOSTILE

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TEXTS = st.text(alphabet=st.sampled_from("ab1 \n\t`*_~|[]()<>!&#+-.:=\\\"'/;é"), max_size=30)


def words_of(markdown):
    """What a reader of the page reads, and what kinds of markup he sees."""
    shown, kinds = "", set()
    for token in READER.parse(markdown):
        kinds.add(token.type)
        for part in token.children or ():
            kinds.add(part.type)
            shown += part.content
    return shown, kinds


def plain(text):
    return " ".join(text.split())


@given(TEXTS)
def test_any_text_is_read_as_it_is(text):
    shown, kinds = words_of(f"x {markdown_text(text)} x")
    assert plain(shown) == plain(f"x {text} x")
    assert kinds <= {"paragraph_open", "inline", "text", "paragraph_close", "text_special"}


@given(TEXTS)
def test_any_text_is_one_item_of_a_list_and_one_cell_of_a_table(text):
    said = markdown_text(text)
    _, kinds = words_of(f"- {said}")
    assert {kind for kind in kinds if kind.endswith("_open")} <= {
        "bullet_list_open",
        "list_item_open",
        "paragraph_open",
    }
    tokens = READER.parse(f"| a | b |\n|---|---|\n| {said} | end |")
    cells = [token.content for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    assert cells[3] == "end"


@given(TEXTS.filter(lambda text: text.strip()))
def test_any_text_is_code(text):
    shown, kinds = words_of(f"x {markdown_code(text)} x")
    assert "code_inline" in kinds
    assert kinds <= {"paragraph_open", "inline", "text", "code_inline", "paragraph_close"}
    assert plain(shown) == plain(f"x {text} x")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_become_no_link_picture_or_html(text):
    for said in (markdown_text(text), f"**{markdown_text(text)}**", markdown_code(text)):
        _, kinds = words_of(f"Warning: {said}.")
        assert not kinds & {"html_inline", "html_block", "link_open", "image"}
        assert "<" not in said or said.startswith("`")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "a;=", "a\n-", "a\t@"])
def test_no_text_is_a_formula(start):
    cell = spreadsheet_cell(f"{start}cmd|'/C calc'!A0")
    assert "'" + start.strip("a;\t\r\n") in cell
    assert cell[0] not in "=+-@\t\r"
    assert cell.replace("'", "") == f"{start}cmd|'/C calc'!A0".replace("'", "")


@pytest.mark.parametrize("value", ["-1.5", "+2", "-1e-5", "12 %", "", "cat", "alpha=0.3", "a-b", -1.5, 3, None, True])
def test_numbers_and_ordinary_texts_stay(value):
    assert spreadsheet_cell(value) is value or spreadsheet_cell(value) == value
