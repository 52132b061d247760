"""README and docs/: short enough, every link resolves, the code runs, the tables are the commands' own."""

import re
from pathlib import Path

import pytest
import torch

from mm_balance.config import options, repair_options, reproduction_options, study_options
from mm_balance.methods import METHODS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README_BYTES = 9000

FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PARAMETER = re.compile(r"-P '?([a-z_]+)=")


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def section(title: str) -> str:
    """The text of a section of README."""
    return README.read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def table_rows(text: str, first: str = "") -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {first}")]


def test_readme_is_short():
    assert len(README.read_bytes()) <= README_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        assert file.is_relative_to(ROOT), f"{target} leaves the repository"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}: no such heading"


def test_the_index_names_every_page():
    index = prose(ROOT / "docs" / "README.md")
    named = {(ROOT / "docs" / target.split("#")[0]).resolve() for target in LINK.findall(index)}
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or page in named, page.name


def test_the_code_in_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    torch.manual_seed(0)
    found: dict = {}
    exec(compile(code, "README.md", "exec"), found)
    assert found["loss"].isfinite()
    assert found["loss"].shape == ()
    assert found["posterior"].shape == (32,)


def test_the_measuring_code_in_own_loop_runs(capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own-loop.md").read_text("utf-8"), re.DOTALL)
    found: dict = {}
    for block in code[:2]:  # the second one goes on with the arrays of the first one
        exec(compile(block, "own-loop.md", "exec"), found)
        assert capsys.readouterr().out.startswith("text is ahead: mean gap +0.")
    assert found["several"].is_multi_label


def test_readme_names_every_method_once():
    named = re.findall(r"`([a-z_]+)`", "\n".join(table_rows(section("Methods"))[1:]))
    assert sorted(named) == sorted(METHODS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_parameters_in_commands_exist(page):
    known = {*options(), *study_options(), *reproduction_options(), *repair_options()}
    assert set(PARAMETER.findall(page.read_text("utf-8"))) - {"key"} <= known


def test_the_results_in_readme_are_lines_of_the_written_pages():
    written = {line for name in ("first_result", "leaderboard") for line in read(name).splitlines()}
    rows = table_rows(section("Results"))
    assert len(rows) >= 10
    assert set(rows) <= written


def test_readme_has_the_best_five_methods_the_controls_and_joint_training():
    best = table_rows(read("leaderboard"), "`")[:5]
    rows = table_rows(section("Results"), "`")
    assert rows[:5] == best
    names = {row.split("`")[1] for row in rows}
    assert {"concat", "concat_unimodal", "audio_only", "visual_only", "ensemble"} <= names


def read(name: str) -> str:
    return (RESULTS / f"{name}.md").read_text("utf-8")
