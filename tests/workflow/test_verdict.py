"""What a run's page says in words, and what it tells to do next."""

import doctest
import shlex
from dataclasses import replace

import pytest
import torch

from mm_balance.commands import COMMANDS
from mm_balance.config import Config, resolve
from mm_balance.testing import tiny_data
from mm_balance.workflow import verdict as module
from mm_balance.workflow.next_steps import next_steps
from mm_balance.workflow.report import have_other_groups
from mm_balance.workflow.verdict import (
    Scores,
    against_chance,
    chance_level,
    disagreement,
    gained,
    margin,
    who_is_ahead,
)
from mm_balance.workflow.warmups import warmup_line


def test_the_examples():
    assert doctest.testmod(module).attempted == 5
    assert doctest.testmod(module).failed == 0


def test_chance_is_the_most_frequent_training_class():
    assert chance_level(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 0]), 3) == pytest.approx(0.4)


def test_the_margin_of_two_halves_on_a_hundred_samples():
    assert margin(0.5, 0.5, 100) == pytest.approx(1.96 * 0.0707107, abs=1e-6)


def test_a_small_lead_is_not_called_one():
    scores = Scores(0.9, {"audio": 0.8, "visual": 0.79})
    assert who_is_ahead("validation", scores, 100) == (
        "Validation accuracy: fused **90.0 %**, audio 80.0 %, visual 79.0 %. **On validation, no modality is clearly ahead**: best "
        "and weakest differ by 1.0 points (95 % interval over 100 samples: ±11.2)."
    )
    assert who_is_ahead("test", scores, 100_000).endswith(
        "**On test, audio is ahead of visual by 1.0 points** (95 % interval over 100,000 samples: ±0.4)."
    )


def test_the_weakest_of_three_is_named_and_so_is_who_is_at_chance():
    scores = Scores(0.9, {"audio": 0.7, "visual": 0.8, "text": 0.11})
    assert "visual is ahead of text by 69.0 points" in who_is_ahead("validation", scores, 500)
    assert against_chance(scores, 500, 0.1) == "Chance: 10.0 %. **Not above it: text.**"
    assert against_chance(Scores(0.9, {"audio": 0.8}), 100, 0.5) == "Chance: 50.0 %."


def test_a_single_modality_is_ahead_of_none():
    scores = Scores(0.9, {"audio": 0.9})
    assert who_is_ahead("validation", scores, 500) == "Validation accuracy: fused **90.0 %**, audio 90.0 %."
    assert disagreement(scores, 500, Scores(0.1, {"audio": 0.1}), 500) == []


def of(audio, visual):
    return Scores(0.9, {"audio": audio, "visual": visual})


def test_validation_and_test_that_agree_are_not_said_to_disagree():
    assert disagreement(of(0.9, 0.7), 500, of(0.8, 0.7), 1000) == []
    assert disagreement(of(0.8, 0.79), 500, of(0.7, 0.71), 1000) == []


def test_a_disagreement_says_whether_chance_can_explain_it_and_names_groups_only_if_told():
    """Leads of 12 ± 4.9 and 0 ± 3.6: 12 points apart, and the two intervals allow for 6.1. Leads of 5.5 and 3: 2.5 apart."""
    (line,) = disagreement(of(0.88, 0.76), 500, of(0.79, 0.79), 1000)
    assert line == (
        "Validation and test disagree on who is ahead, by more than their intervals allow for: audio minus visual is +12.0 points on "
        "validation, +0.0 on test."
    )
    (line,) = disagreement(of(0.8, 0.745), 500, of(0.8, 0.77), 1000, other_groups=True)
    assert "by no more than their intervals allow for" in line
    assert line.endswith(
        "+3.0 on test. Validation and test have no group (speaker, source video or the like) in common."
    )
    (line,) = disagreement(of(0.9, 0.7), 500, of(0.7, 0.9), 1000)
    assert "audio minus visual is +20.0 points on validation, -20.0 on test" in line


@pytest.mark.parametrize(
    ("table", "other"),
    [
        ({}, False),
        ({"split": ["train", "val", "test"]}, False),
        ({"split": ["train", "val", "test"], "group": ["x", "y", "z"]}, True),
        ({"split": ["train", "val", "test"], "group": ["x", "y", "y"]}, False),
        ({"split": ["train", "val", "test"], "group": ["x", "y", ""]}, False),
        ({"split": ["val", "val", "test"], "group": ["x", "", "z"]}, True),
    ],
)
def test_groups_are_spoken_of_only_where_the_data_name_them(table, other):
    assert have_other_groups(replace(tiny_data(), table=table)) is other


def test_what_a_second_stage_changed_needs_a_control_unless_it_is_one():
    change = gained(of(0.864, 0.766), Scores(0.862, {"audio": 0.8, "visual": 0.38}))
    assert change == (
        "The second stage, against the warm-up: fused +3.8, audio +6.4, visual +38.6 points on validation. Only a control trained as "
        "long says whether the method or the longer training did it."
    )


def lines(command, config, *, from_scratch=True):
    steps = next_steps(command, config, "abc", from_scratch=from_scratch)
    return [step.rpartition(": ")[2].strip("`") for step in steps]


def parsed(line) -> tuple[str, Config | None]:
    """The command that a line starts, and the configuration that it resolves to."""
    words = shlex.split(line)
    assert words[:5] == ["mlflow", "run", ".", "--env-manager", "local"]
    command = words[words.index("-e") + 1] if "-e" in words else "main"
    pairs = [words[index + 1].split("=", 1) for index, word in enumerate(words) if word == "-P"]
    return command, COMMANDS[command].parse([part for name, value in pairs for part in (f"--{name}", value)]).config


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("main", {"preset": "quick", "gap_weight": 2.0, "seed": 3}),
        ("main", {"method": "ogm_ge", "method_options": "alpha=0.3"}),
        ("main", {"method_options": "gap_weight=2.0"}),
        ("train", {"method": "ogm_ge", "epochs": 3, "learning_rate": 0.1}),
    ],
)
def test_the_lines_repeat_the_run_with_another_seed_or_the_control(command, given):
    config = resolve(given, {"method": "concat"} if command == "train" else {})
    *_, again, control = [parsed(line) for line in lines(command, config)]
    assert again[0] == control[0] == command
    changed = config.values() | {"seed": config.run.seed + 1}
    assert {name: value for name, value in again[1].values().items() if name != "method_options"} == {
        name: value for name, value in changed.items() if name != "method_options"
    }
    assert (control[1].method.method, control[1].run.seed) == ("concat_unimodal", config.run.seed)
    assert control[1].optimization == config.optimization


def test_the_line_of_a_warmup_is_for_a_shell_or_for_python(tmp_path):
    manifest = tmp_path / "my clips" / "manifest.csv"
    command, found = parsed(warmup_line(resolve({"dataset": str(manifest), "learning_rate": 0.2})))
    assert (command, found.data.dataset, found.optimization.learning_rate) == ("warmup", str(manifest), 0.2)
    assert (
        warmup_line(resolve({"dataset": "python:mine", "learning_rate": 0.2}))
        == "mm_balance.run(data, learning_rate=0.2)"
    )


def test_what_follows_a_stage_alone():
    assert lines("warmup", resolve({})) == ["mlflow run . --env-manager local -e adaptive -P warmup_run=abc"]
    assert lines("adaptive", resolve({}), from_scratch=False) == [
        "mlflow run . --env-manager local -e evaluate -P run_id=abc"
    ]
    assert len(lines("main", resolve({"method": "concat_unimodal"}))) == 1, "the control is compared with nothing"


@pytest.mark.parametrize("settings", [{"gap_source": "cross_fitted"}, {"mixture": "two_absolute"}])
@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("main", {"preset": "quick", "method": "ogm_ge", "method_options": "alpha=0.3", "seed": 3}),
        ("train", {"method": "ogm_ge", "epochs": 3}),
        ("adaptive", {"gap_weight": 2.0, "seed": 3}),
    ],
)
def test_what_a_warning_recommends_is_a_line_that_changes_only_that(command, given, settings):
    config = resolve(given, {"method": "concat"} if command == "train" else {})
    alone = command == "adaptive"
    steps = next_steps(
        command,
        config,
        "abc",
        from_scratch=not alone,
        warmup_run="w" if alone else None,
        remedies=[("What for", settings)],
    )
    (step,) = [step for step in steps if step.startswith("- What for: ")]
    name, changed = parsed(step.rpartition(": ")[2].strip("`"))
    assert name == command
    skipped = ("method_options", "warmup_run", "method") if alone else ("method_options",)
    wanted = config.values() | settings
    assert {key: value for key, value in changed.values().items() if key not in skipped} == {
        key: value for key, value in wanted.items() if key not in skipped
    }
    assert changed.values()["warmup_run"] == ("w" if alone else None)


def test_the_report_of_the_experiment_is_a_line_with_its_name():
    *_, last = next_steps("main", resolve({}), "abc", from_scratch=True, experiment="my clips")
    assert last.endswith("`mlflow run . --env-manager local -e report -P 'experiment=my clips'`")
