"""Parameters: what the command line accepts, what it refuses and how, and what presets may do."""

from dataclasses import asdict

import pytest

from mm_balance.config import (
    AUTO,
    ENTRY_POINTS,
    entry_point_options,
    format_value,
    options,
    parse_arguments,
    parse_value,
    resolve,
    restore,
    study_options,
    warmup_parameters,
)
from mm_balance.errors import UserError


def test_defaults_resolve_for_every_entry_point():
    for entry_point in ENTRY_POINTS:
        given = parse_arguments(entry_point, [])
        config = resolve({name: value for name, value in given.items() if name in options()})
        assert config.batch_size == 32
        assert config.encoder == "resnet_narrow"
        assert config.adaptive_learning_rate == config.learning_rate


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rate", "abc"], ["learning_rate=abc", "not a number", "above 0"]),
        (["--learning_rate", "0"], ["learning_rate=0", "out of range"]),
        (["--learning_rate", "nan"], ["learning_rate=nan", "out of range"]),
        (["--learning_rate", "inf"], ["out of range"]),
        (["--learning_rate", ""], ["learning_rate is empty"]),
        (["--anneal", "foo"], ["anneal=foo", "constant, linear, cosine, exponential"]),
        (["--loss_form", "prosee"], ["did you mean prose?"]),
        (["--seed", "1.5"], ["seed=1.5", "whole number"]),
        (["--batch_size", "1"], ["batch_size=1", "at least 2"]),
        (["--corruption", "0.6"], ["corruption=0.6", "at most 0.5"]),
        (["--fusion", "auto"], ["fusion=auto"]),
        (["--gap_weight", "-1"], ["gap_weight=-1", "at least 0"]),
        (["--gap_weigth", "1"], ["unknown parameter `gap_weigth`", "did you mean gap_weight?"]),
        (["--gap"], ["unknown parameter `gap`"]),
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_them(arguments, words):
    with pytest.raises(UserError) as raised:
        parse_arguments("main", arguments)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "imagenet"}, "dataset=imagenet is not known"),
        ({"preset": "nowhere.yaml"}, "no such file"),
        ({"anneal": "exponential", "anneal_end": 0.0}, "anneal_end above 0"),
        ({"device": "gpu"}, "device=gpu"),
        ({"modalities": "audio"}, "two or more"),
        ({"modalities": "audio,audio"}, "two or more"),
        ({"precision": "float16", "device": "cpu"}, "needs a CUDA device"),
    ],
)
def test_combinations_that_cannot_work_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        resolve(given)


def test_an_explicit_value_beats_the_preset():
    assert resolve({}).warmup_epochs == 6
    assert resolve({"warmup_epochs": 2}).warmup_epochs == 2
    assert resolve({"preset": "quick"}).warmup_epochs == 2
    assert resolve({"preset": "quick", "warmup_epochs": 3}).warmup_epochs == 3


def test_balanced_fusion_weight_follows_the_loss_form():
    assert resolve({}).balanced_fusion_weight == 0.0
    assert resolve({"loss_form": "abstract_v2"}).balanced_fusion_weight == 1.0
    assert resolve({"loss_form": "abstract_v2", "balanced_fusion_weight": 0.25}).balanced_fusion_weight == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 3", "sets seed, which no preset may set"),
        ("nonsense: 3", "sets nonsense"),
        ("batch_size: many", "batch_size=many"),
        ("- 1", "mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_a_preset_may_only_set_what_is_auto(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        resolve({"preset": str(path)})


def test_a_preset_file_lies_on_top_of_the_data_sets_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch_size: 16\nlearning_rate: 1e-2\n")
    config = resolve({"preset": str(path)})
    assert (config.batch_size, config.learning_rate, config.warmup_epochs) == (16, 0.01, 6)


def test_the_tuned_part_of_a_preset_sets_what_still_has_its_default(tmp_path):
    path = tmp_path / "best.yaml"
    path.write_text("batch_size: 16\ntuned:\n  gap_weight: 0.25\n  anneal: linear\n  method_options: alpha=0.5\n")
    config = resolve({"preset": str(path), "anneal": "constant"})
    assert (config.batch_size, config.gap_weight, config.anneal) == (16, 0.25, "constant")
    assert config.method_options == "alpha=0.5"
    assert restore(asdict(config)) == config
    for text, words in (
        ("tuned:\n  seed: 3", "tuned sets seed, which is no parameter of training"),
        ("tuned:\n  gap_weight: -1", "gap_weight=-1"),
        ("tuned: 3", "tuned is a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            resolve({"preset": str(path)})


def test_a_saved_configuration_comes_back_without_its_preset_and_with_what_is_new(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("batch_size: 16\n")
    config = resolve({"preset": str(path), "seed": 3})
    path.unlink()
    saved = asdict(config)
    assert restore(saved) == config
    del saved["posterior_source"]  # as if it had been made before that parameter existed
    assert restore(saved) == config
    with pytest.raises(UserError, match="another version of MM-Balance, with gone"):
        restore({**saved, "gone": 1})


def test_text_and_value_are_inverse_for_every_default():
    for option in options().values():
        if option.default not in (AUTO, "none"):
            assert parse_value(option, format_value(option.default)) == option.default
    assert format_value(0.0001) == "0.0001"
    assert format_value(1.0) == "1.0"
    assert format_value(None) == "none"


def test_the_parameters_that_a_warm_up_depends_on_and_no_more():
    named = set(warmup_parameters())
    assert {"seed", "learning_rate", "optimizer", "encoder", "warmup_epochs", "precision"} <= named
    assert not {"gap_weight", "adaptive_epochs", "device", "mixture"} & named


def test_what_may_change_when_a_run_is_continued_is_declared():
    assert {name for name, item in options().items() if item.may_grow} == {"warmup_epochs", "adaptive_epochs", "epochs"}
    machine = {name for name, item in options().items() if item.of_the_machine}
    assert machine == {"data_dir", "preset", "workers", "device", "resume_run"}
    asked = study_options()
    assert {name for name, item in asked.items() if item.may_grow} == {"trials", "confirm_seeds"}
    assert {name for name, item in asked.items() if item.of_the_machine} == {
        "workers", "devices", "storage", "worker_restarts",
    }  # fmt: skip


def test_every_option_is_documented_and_its_default_allowed():
    for option in options().values():
        assert option.help
        assert option.default in ("auto", "none") or parse_value(option, format_value(option.default)) == option.default
        assert not option.choices or option.default in (*option.choices, "auto")
    assert all(entry_point_options(name) for name in ENTRY_POINTS)
