"""The line that stands before a long training on a CPU, and settings that fit the data."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mm_balance.config import options, resolve, stage_options
from mm_balance.data.card import CardSample
from mm_balance.data.suggestions import suggested_settings
from mm_balance.testing import tiny_data
from mm_balance.workflow import duration
from mm_balance.workflow.card import suggested_line


def sample(seconds=1.0, size=(64, 48), rate=16_000):
    return CardSample("train", ("a",), {"audio": seconds, "visual": 5.0}, {"audio": rate}, {"visual": size})


@pytest.fixture
def config(tmp_path):
    return resolve({"dataset": str(tmp_path / "manifest.csv"), "device": "cpu", "encoder": "resnet_narrow"})


def test_settings_follow_lengths_and_sizes():
    kinds = ("sound", "image")
    found = suggested_settings([sample()] * 40, kinds)
    assert (found["encoder"], found["image_size"], found["clip_seconds"]) == ("resnet_narrow", "64", "1")
    assert suggested_settings([sample(size=(400, 300))], kinds)["image_size"] == "64"
    assert suggested_settings([sample(size=(28, 28))], kinds)["image_size"] == "32"
    assert suggested_settings([sample(size=(41, 30))], kinds)["image_size"] == "48"
    assert suggested_settings([sample(0.5)] * 19 + [sample(2.31)], kinds)["clip_seconds"] == "2.4"
    assert suggested_settings([sample(60.0)], kinds)["clip_seconds"] == "10"
    arrays = suggested_settings([CardSample("train", ("a",))], ("vector", "sequence"))
    assert not {"encoder", "image_size", "clip_seconds"} & set(arrays)
    # They are parameters with values that are allowed, and go together.
    resolve({"dataset": "x.csv", **{name: type_of(name)(value) for name, value in found.items()}})


def type_of(name):
    return {
        "batch_size": int,
        "image_size": int,
        "refit_every": int,
        "learning_rate": float,
        "clip_seconds": float,
    }.get(name, int if name.endswith("epochs") else str)


def test_the_card_has_a_command():
    line = suggested_line(tiny_data(("depth", "touch")), [sample()])
    assert line.startswith(
        "mlflow run . --env-manager local -P dataset=PATH/manifest.csv -P modalities=depth,touch -P encoder=resnet_narrow -P "
        "image_size=64 -P clip_seconds=1 "
    )
    assert "-P epochs" not in line, "main has none"


def test_one_line_says_the_hours_and_what_fits(config, monkeypatch, capsys):
    data = replace(tiny_data(), table={"sample": ["a"], "split": ["train"], "label": ["x"]})
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 0.9)
    duration.warn_if_long(config, data, 12, options())  # 40 samples x 12 epochs x 0.9 s x 4/3 = 9.6 minutes
    assert capsys.readouterr().err == ""
    duration.warn_if_long(config, data, 100, stage_options("main"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "mm-balance: warning: about 1.3 hours on this CPU (40 samples, 100 epochs, 0.90 s a sample); settings that fit: -P "
    )
    assert "-P batch_size=32" in line
    assert "-P warmup_epochs=6" in line
    assert "-P epochs" not in line, "main has none"
    assert "-P encoder" not in line, "it has that already"


def test_nothing_is_suggested_that_is_set_already(config, monkeypatch, capsys):
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 0.9)
    duration.warn_if_long(config, tiny_data(), 100, ["encoder"])
    assert capsys.readouterr().err.endswith("(40 samples, 100 epochs, 0.90 s a sample)\n")


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("resnet18", "-P encoder=resnet_narrow"),
        ("touch:mlp,visual:resnet18", "-P encoder=visual:resnet_narrow,touch:mlp"),
        ("visual:resnet_narrow,touch:mlp", None),
    ],
)
def test_the_small_encoder_is_for_what_is_seen_or_heard(tmp_path, monkeypatch, capsys, encoder, told):
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 0.9)
    data = tiny_data(("visual", "touch"))
    data.specs["touch"] = replace(data.specs["touch"], kind="vector")
    given = {"dataset": str(tmp_path / "m.csv"), "device": "cpu", "modalities": "visual,touch", "encoder": encoder}
    duration.warn_if_long(resolve(given), data, 100, ["encoder"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"settings that fit: {told}" if told else "0.90 s a sample)")


def test_data_at_hand_are_told_of_in_python(monkeypatch, capsys):
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 0.9)
    given = {"dataset": "python:mine", "device": "cpu", "method": "ogm_ge", "batch_size": 32, "epochs": 100, "seed": 3}
    duration.warn_if_long(resolve(given), tiny_data(), 100, stage_options("train"), command="train")
    (line,) = capsys.readouterr().err.splitlines()
    _, call = line.split("settings that fit: ")
    assert " -P " not in line
    calls = []
    exec(call, {"mm_balance": SimpleNamespace(run=lambda *data, **words: calls.append(words)), "data": None})
    (words,) = calls
    fits = {"encoder": "resnet_narrow", "learning_rate": 0.02, "epochs": 18, "refit_every": 3}
    assert words.items() >= {"method": "ogm_ge", "seed": 3, "batch_size": 32, "warmup": False, **fits}.items()


def test_a_study_is_told_of_as_a_whole(config, monkeypatch, capsys):
    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 0.9)
    words = {"study": "40 trials of 12 epochs, 2 at a time"}
    duration.warn_if_long(config, tiny_data(), 240, ["encoder"], **words)
    duration.warn_if_long(config, tiny_data(), 240, ["batch_size"], **words, may_end_early=True)
    full, pruned = capsys.readouterr().err.splitlines()
    end = "3.2 hours on this CPU (40 samples, 40 trials of 12 epochs, 2 at a time, 0.90 s a sample)"
    assert full == f"mm-balance: warning: about {end}; fewer trials: -P trials=NUMBER"
    assert pruned == (
        f"mm-balance: warning: at most about {end}; settings that fit: -P batch_size=32; fewer trials: -P trials=NUMBER"
    )


def test_built_in_data_and_gpus_are_not_measured(config, monkeypatch, capsys):
    def measured(config, data):
        raise AssertionError

    monkeypatch.setattr(duration, "seconds_per_sample", measured)
    duration.warn_if_long(resolve({"device": "cpu"}), tiny_data(), 10**6, options())
    monkeypatch.setattr(duration, "resolve_device", lambda device: type("Device", (), {"type": "cuda"}))
    duration.warn_if_long(config, tiny_data(), 10**6, options())
    assert capsys.readouterr().err == ""


def test_a_few_samples_are_measured(config):
    assert 0 < duration.seconds_per_sample(config, tiny_data()) < 60
