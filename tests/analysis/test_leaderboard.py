"""The leaderboard: every method, the same number of trials, and a table in README that is the command's own."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.leaderboard import GRIDS, page
from mm_balance.methods import METHODS, parse_options

ROOT = Path(__file__).parents[2]


def test_every_method_that_has_options_worth_tuning_has_three_trials_and_no_method_more():
    assert set(GRIDS) <= set(METHODS)
    assert {name: len(trials) for name, trials in GRIDS.items() if len(trials) != 3} == {
        "ensemble": 2
    }  # it has two readings


@pytest.mark.parametrize("method", sorted(GRIDS))
def test_trials_are_valid_and_different(method):
    parsed = [str(parse_options(method, METHODS[method].Options, trial)) for trial in GRIDS[method]]
    assert len(set(parsed)) == len(parsed)


def test_the_table_is_the_best_first_with_spread():
    frame = pd.DataFrame(
        {
            "method": ["concat"] * 2 + ["ogm"] * 2, "seed": [0, 1] * 2, "accuracy": [0.5, 0.7, 0.8, 0.9],
            "accuracy_audio": 0.5, "accuracy_visual": 0.25, "imbalance_degree": [0.1, 0.3, 0.2, 0.2], "seconds": 10.0, "cost": 1.0,
        }
    )  # fmt: skip
    lines = [line for line in page(frame, {"concat": "", "ogm": "alpha=0.1"}) if line.startswith("| `")]
    assert lines[0].startswith(
        "| `ogm` | 85.0 ± 7.1 | 50.0 ± 0.0 | 25.0 ± 0.0 | 0.20 ± 0.00 | 10 | 1.00 | `alpha=0.1` |"
    )
    assert lines[1].startswith("| `concat` | 60.0 ± 14.1 |")


def test_readme_has_the_commands_own_table_with_all_methods():
    readme = (ROOT / "README.md").read_text("utf-8")
    written = (ROOT / "docs" / "results" / "leaderboard.md").read_text("utf-8")
    rows = [line for line in written.splitlines() if line.startswith("|")]
    assert len(rows) == len(METHODS) + 2
    assert "\n".join(rows) in readme
    runs = pd.read_csv(ROOT / "docs" / "results" / "leaderboard.csv")
    assert (runs.groupby("method").size() == 3).all()
    assert set(runs["method"]) == set(METHODS)
