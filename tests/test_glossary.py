"""docs/glossary.md and docs/methods.md are the generated ones."""

from pathlib import Path

from analysis.glossary import glossary
from analysis.methods_page import page
from mm_balance.config import options
from mm_balance.methods import METHODS
from mm_balance.names import REFIT_METRICS

PAGE = Path(__file__).parent.parent / "docs" / "glossary.md"


def test_the_page_is_the_generated_one():
    assert PAGE.read_text("utf-8") == glossary(), "run `make glossary`"


def test_it_names_everything():
    text = glossary()
    assert all(f"`{name}`" in text for name in [*options(), *REFIT_METRICS])


def test_the_page_of_the_methods_is_the_generated_one_and_names_all():
    text = (PAGE.parent / "methods.md").read_text("utf-8")
    assert text == page(), "run `make methods`"
    for name in METHODS:
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert "Source:" in section, name
