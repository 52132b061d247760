"""What a run's page says in words, and what it tells to do next."""

import doctest
import shlex

import pytest
import torch

from mm_balance.commands import COMMANDS
from mm_balance.config import Config, resolve
from mm_balance.workflow import verdict as module
from mm_balance.workflow.next_steps import next_steps
from mm_balance.workflow.verdict import Scores, chance_level, margin, verdict


def test_the_example():
    assert doctest.testmod(module).attempted == 3
    assert doctest.testmod(module).failed == 0


def test_chance_is_the_most_frequent_training_class():
    assert chance_level(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 0])) == pytest.approx(0.4)


def test_the_margin_of_two_halves_on_a_hundred_samples():
    assert margin(0.5, 0.5, 100) == pytest.approx(1.96 * 0.0707107, abs=1e-6)


def test_a_small_lead_is_not_called_one():
    (first, second) = verdict(Scores(0.9, {"audio": 0.8, "visual": 0.79}), 100, 0.5, None)
    assert first.startswith("**On validation, no modality is clearly ahead**: best and weakest differ by 1.0 points")
    assert second == "Chance: 50.0 %."
    (first, _) = verdict(Scores(0.9, {"audio": 0.8, "visual": 0.79}), 100_000, 0.5, None)
    assert first.startswith("**On validation, audio is ahead of visual by 1.0 points** (±0.4;")


def test_the_weakest_of_three_is_named_and_so_is_who_is_at_chance():
    first, last = verdict(Scores(0.9, {"audio": 0.7, "visual": 0.8, "text": 0.11}), 500, 0.1, None)
    assert "visual is ahead of text by 69.0 points" in first
    assert last == "Chance: 10.0 %. **Not above it: text.**"


def test_a_single_modality_is_ahead_of_none():
    assert verdict(Scores(0.9, {"audio": 0.9}), 500, 0.1, None)[0] == "**On validation: fused 90.0 %, audio 90.0 %.**"


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


def test_what_follows_a_stage_alone():
    assert lines("warmup", resolve({})) == ["mlflow run . --env-manager local -e adaptive -P warmup_run=abc"]
    assert lines("adaptive", resolve({}), from_scratch=False) == [
        "mlflow run . --env-manager local -e evaluate -P run_id=abc"
    ]
    assert len(lines("main", resolve({"method": "concat_unimodal"}))) == 1, "the control is compared with nothing"
