"""The recipe from Python: the same numbers with and without MLflow, on data at hand and by name; and what cannot be."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import mm_balance as mm
from mm_balance.engine import loop
from mm_balance.errors import UserError
from mm_balance.stopping import LAUNCHER_VARIABLE
from mm_balance.testing import tiny_data
from mm_balance.workflow import duration
from tests.helpers.commands import artifacts, by_stage, do, newest, runs

pytestmark = pytest.mark.slow
SHORT = {"batch_size": 8, "warmup_epochs": 2, "adaptive_epochs": 4, "refit_every": 2, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def untracked():
    torch.set_num_threads(1)
    return mm.run(tiny_data(kind="vector"), track=False, **SHORT)


def test_what_it_returns(untracked, tmp_path):
    assert [fit.epoch for fit in untracked.refits] == [fit.epoch for fit in untracked.validation] == [2, 4, 6]
    assert [point.step for point in untracked.points if "train/loss" in point.metrics] == [1, 2, 3, 4, 5, 6]
    assert {"test/accuracy", "test/accuracy_audio", "val/accuracy", "val/gap_mean"} <= set(untracked.metrics)
    gaps = untracked.gaps
    assert list(gaps["sample"]) == untracked.data.splits["train"].samples
    assert np.allclose(gaps["gap"], gaps["p_audio"] - gaps["p_visual"])
    assert gaps["posterior_imbalanced"].between(0, 1).all()
    assert untracked.mixture is untracked.refits[-1].mixture
    assert untracked.measured("test").gaps.mean() == pytest.approx(untracked.metrics["test/gap_mean"], abs=1e-6)
    assert untracked.measured("val").metrics()["gap/mean"] == pytest.approx(untracked.metrics["val/gap_mean"], abs=1e-6)
    assert "test accuracy fused" in repr(untracked)
    assert len(repr(untracked)) < 150
    untracked.figure().savefig(tmp_path / "figure.png")
    table = untracked.explore(tmp_path / "explorer.html", worst=3)
    assert len(table) == sum(len(split) for split in untracked.data.splits.values())
    assert "<html" in (tmp_path / "explorer.html").read_text("utf-8")
    with pytest.raises(ValueError, match="give train, val or test"):
        untracked.measured("held_out")


def test_the_same_bits_in_mlflow(store, untracked, tmp_path):
    tracked = mm.run(tiny_data(kind="vector"), **SHORT)
    assert dict(tracked.metrics) == dict(untracked.metrics)
    losses = [[(point.step, point.metrics["train/loss"]) for point in item.points if "train/loss" in point.metrics]
              for item in (tracked, untracked)]  # fmt: skip
    assert losses[0] == losses[1]
    for name, value in untracked.model.state_dict().items():
        assert torch.equal(value, tracked.model.state_dict()[name]), name
    assert torch.equal(tracked.refits[-1].gaps, untracked.refits[-1].gaps)
    main = by_stage()["main"]
    assert tracked.run_id == main.info.run_id
    assert main.info.status == "FINISHED"
    assert main.data.metrics["test/accuracy"] == tracked.metrics["test/accuracy"]
    card = {"data/card.md", "data/contact_sheet.png", "data/samples.parquet"}
    assert artifacts(main, "data") == card
    assert not artifacts(by_stage()["adaptive"], "data"), "their parent has it"
    # Nothing names a command that could not read these data.
    text = main.data.tags["mlflow.note.content"]
    assert "mlflow run . --env-manager local -P" not in text
    assert (
        "`mm_balance.run(data, batch_size=8, learning_rate=0.05, warmup_epochs=2, refit_every=2, adaptive_epochs=4, seed=1)`"
        in text
    )
    tracked.explore(tmp_path / "explorer.html", worst=2)
    assert (tmp_path / "explorer.html").stat().st_size > 100_000


class Begun(Exception):
    """The training begins."""


@pytest.fixture
def announced(store, monkeypatch, capsys):
    """The lines about hours that stand before a long training."""

    def begin(*given, **more):
        raise Begun

    monkeypatch.setattr(duration, "seconds_per_sample", lambda config, data: 100.0)
    monkeypatch.setattr("mm_balance.running._trained", begin)
    monkeypatch.setattr("mm_balance.commands.training.open_run", begin)

    def lines(**words):
        with pytest.raises(Begun):
            mm.run(tiny_data(kind="vector"), device="cpu", **words)
        return [line for line in capsys.readouterr().err.splitlines() if "hours on this CPU" in line]

    return lines


def test_a_part_of_a_study_is_not_announced_again(announced, monkeypatch):
    monkeypatch.setenv(LAUNCHER_VARIABLE, "1")
    assert announced() == []


@pytest.mark.parametrize("words", [{"track": False}, {"track": False, "warmup": False, "method": "concat"}, {}])
def test_a_long_training_is_announced_in_python(announced, words):
    (line,) = announced(**words)
    assert "settings that fit: mm_balance.run(data, " in line
    assert ("warmup=False" in line) is ("warmup" in words)


MISTAKES = [
    ({"epochs": 3}, "epochs is not a parameter of a run: it has two stages, warmup_epochs and adaptive_epochs; warmup=False trains"),
    ({"lr": 0.1}, "lr is not a parameter of a run (did you mean learning_rate?)"),
    ({"kind": "three"}, "kind is not a parameter of a run (did you mean mixture?)"),
    ({"batchsize": 3}, "batchsize is not a parameter of a run (did you mean batch_size?)"),
    ({"encoder": int}, "encoder is given as an object; give its import path, package.module:int"),
    ({"method": dict}, "method is given as an object; give its import path, package.module:dict"),
    ({"label_separator": "|"}, "label_separator is for data that are read by name; these are given: choose when they are made"),
    ({"modalities": "audio"}, "modalities is for data that are read by name"),
    ({"encoder": "audio:resnet18,visual:mlp"}, "encoder=resnet18 takes a sound or an image or a video, not a vector"),
    ({"method_options": {"alfa": 1.0}, "method": "ogm"}, "alfa"),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "told"), MISTAKES)
def test_plausible_mistakes_are_told_in_one_line(parameters, told):
    with pytest.raises(UserError) as caught:
        mm.run(tiny_data(kind="vector"), track=False, **{**SHORT, **parameters})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_a_method_are_a_dictionary_or_a_text(untracked):
    plain, given = (
        mm.run(
            tiny_data(kind="vector"), "concat_unimodal", track=False, warmup=False, epochs=1, batch_size=8, method_options=options
        )
        for options in ("unimodal_weight=0.25", {"unimodal_weight": 0.25})
    )  # fmt: skip
    assert plain.metrics == given.metrics
    assert given.config.method.method_options == "unimodal_weight=0.25"


def test_long_things_are_short_in_a_notebook(untracked):
    assert (
        repr(untracked.predict("test"))
        == "<predictions of 12 samples, 3 classes: .fused, .unimodal of audio, visual, .labels>"
    )
    assert repr(untracked.measured("val")) == f"<{untracked.measured('val').sentence()}>"
    with pytest.raises(ValueError, match="split='trian' is not known; give train, val, test"):
        untracked.predict("trian")


def test_a_command_cannot_read_data_that_a_program_gave(store, capsys):
    tracked = mm.run(
        tiny_data(), "ogm", warmup=False, encoder="resnet_narrow", epochs=2, refit_every=2, batch_size=8, worst=0
    )
    assert newest(stage="train").data.tags["mm.method"] == "ogm"
    capsys.readouterr()
    assert do("evaluate", f"run_id={tracked.run_id}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "these data were given by a Python program" in line
    assert "dataset=package.module:build" in line


@pytest.mark.verify
def test_by_name_it_is_what_the_command_does(store):
    words = "preset=quick device=cpu train_fraction=0.05 worst=0"
    assert do("main", words) == 0
    ours = mm.run("digits", preset="quick", device="cpu", train_fraction=0.05, worst=0, track=False)
    main = by_stage()["main"]
    logged = {name: value for name, value in main.data.metrics.items() if name in ours.metrics}
    assert len(logged) > 10
    assert logged == {name: ours.metrics[name] for name in logged}


@pytest.mark.verify
def test_it_goes_on_where_it_was_stopped(store, monkeypatch, untracked):
    planned = loop.plan_epoch

    def stop(stage, progress, clock, requested):
        if clock.epoch == 4:
            raise KeyboardInterrupt
        return planned(stage, progress, clock, requested)

    monkeypatch.setattr(loop, "plan_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        mm.run(tiny_data(kind="vector"), **SHORT)
    monkeypatch.undo()
    (begun,) = runs(stage="main")
    assert begun.info.status == "FAILED"
    result = mm.run(tiny_data(kind="vector"), resume_run=begun.info.run_id)
    assert dict(result.metrics) == dict(untracked.metrics)
    assert len(runs(stage="main")) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lerning_rate": 0.1}, r"lerning_rate is not a parameter of a run \(did you mean learning_rate\?\)"),
        ({"learning_rate": "much"}, "learning_rate=much is not a number"),
        ({"learning_rate": -1}, "learning_rate=-1 is out of range"),
        ({"encoder": "resnet18"}, "encoder=resnet18 is for none of the modalities"),
        ({"method": "gap_mixtur"}, "method=gap_mixtur is not known"),
        ({"method": "diagnose_relearn"}, "train the method from scratch"),
        ({"track": False, "resume_run": "x"}, "only a tracked run can be resumed"),
        ({"data": [1, 2]}, "data is a list; give a name, a path, or a MultimodalData"),
        ({"data": "digit"}, r"dataset=digit is not known.*did you mean digits"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as caught:
        mm.run(**{"data": tiny_data(kind="vector"), "track": False, **given})
    assert "\n" not in str(caught.value)


def test_data_whose_parts_do_not_fit_are_refused():
    data = tiny_data(kind="vector")
    data.splits["train"].inputs["audio"][3, 2] = float("nan")
    with pytest.raises(UserError, match="split train, modality audio, sample 'train-3': NaN"):
        mm.run(data, track=False, **SHORT)


def test_a_method_that_holds_out_samples_trains_from_scratch():
    result = mm.run(
        tiny_data(kind="vector"), "diagnose_relearn", warmup=False, track=False, epochs=2, refit_every=2, batch_size=8
    )
    assert len(result.gaps) == len(result.data.splits["train"]) < 40


def test_without_tracking_mlflow_is_not_loaded():
    code = (
        "import sys, mm_balance as mm; from mm_balance.testing import tiny_data; "
        f"mm.run(tiny_data(kind='vector'), track=False, **{SHORT}); print('mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
