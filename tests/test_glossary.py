"""docs/glossary.md is the generated one."""

from pathlib import Path

from analysis.glossary import glossary
from mm_balance.config import options
from mm_balance.names import REFIT_METRICS

PAGE = Path(__file__).parent.parent / "docs" / "glossary.md"


def test_the_page_is_the_generated_one():
    assert PAGE.read_text("utf-8") == glossary(), "run `make glossary`"


def test_it_names_everything():
    text = glossary()
    assert all(f"`{name}`" in text for name in [*options(), *REFIT_METRICS])
