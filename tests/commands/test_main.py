"""The whole recipe with another method than the paper's as its second stage."""

import pytest

from mm_balance import names
from tests.helpers.commands import call, runs, values

pytestmark = pytest.mark.usefixtures("signals", "store")
WORDS = [
    "--preset", "quick", "--device", "cpu", "--train_fraction", "0.05", "--warmup_epochs", "1", "--adaptive_epochs", "1",
]  # fmt: skip


def test_another_method_trains_after_the_warm_up_and_says_so():
    assert call("main", [*WORDS, "--method", "ogm_ge", "--method_options", "alpha=0.3"]) == 0
    by_stage = {run.data.tags["mm.stage"]: run for run in runs()}
    assert set(by_stage) == {"main", "warmup", "adaptive", "evaluate"}
    parent, nested = by_stage["main"].data, by_stage["adaptive"].data
    assert (parent.tags["mm.method"], nested.tags["mm.method"]) == ("ogm_ge", "ogm_ge")
    assert (parent.params["config/method"], parent.params["method/alpha"]) == ("ogm_ge", "0.3")
    assert "config/gap_weight" not in parent.params, "an option of a method that was not trained"
    assert not {name for name in nested.params if name.startswith("method/")}, "the parent says it"
    assert parent.tags["mlflow.note.content"].startswith("Test accuracy: ")
    assert "**OGM-GE**" in parent.tags["mlflow.note.content"]
    assert "test/accuracy" in parent.metrics
    for run in by_stage.values():
        said = run.data.params.get("config/method", run.data.tags["mm.method"])
        assert said == run.data.tags["mm.method"], "a run does not name a method that it does not have"


def test_what_the_runs_are_called_and_the_parent_shows():
    assert call("main", [*WORDS, "--gap_weight", "2"]) == 0
    by_stage = {run.data.tags["mm.stage"]: run for run in runs()}
    parent = by_stage["main"]
    name = parent.info.run_name
    assert name == (
        "main gap_mixture digits seed 0, preset=quick train_fraction=0.05 warmup_epochs=1 adaptive_epochs=1 gap_weight=2.0"
    )
    assert {stage: run.info.run_name for stage, run in by_stage.items() if run is not parent} == {
        "warmup": "warmup digits seed 0",
        "adaptive": "adaptive gap_mixture digits seed 0",
        "evaluate": "evaluate test gap_mixture digits seed 0",
    }  # fmt: skip
    for stage in ("warmup", "adaptive", "evaluate"):
        assert not by_stage[stage].data.params, "the UI prints them above each image"
    assert by_stage["adaptive"].data.tags["mm.warmup_run"] == by_stage["warmup"].info.run_id
    assert parent.data.tags["mm.changed"] == name.partition(", ")[2]
    evaluation = by_stage["evaluate"].data.tags
    assert (evaluation["mm.method"], evaluation["mm.dataset"], evaluation["mm.seed"], evaluation["mm.split"]) == (
        "gap_mixture", "digits", "0", "test"
    )  # fmt: skip
    for copied, stages in {
        "val/accuracy": ("warmup", "adaptive"),
        "val/accuracy_visual": ("warmup", "adaptive"),
        "gap/mean_abs": ("warmup", "adaptive"),
    }.items():
        points = {item for stage in stages for item in values(by_stage[stage], [copied])[copied]}
        assert values(parent, [names.both_stages(copied)])[names.both_stages(copied)] == sorted(points), copied
    assert {name.split("/")[0] for name in parent.data.metrics} == {"both_stages", "test", "val"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "g_blending"], "which it holds out"),
        (["--method", "ogm", "--gap_weight", "1"], "gap_weight is an option of gap_mixture, not of method=ogm"),
        (["--method", "ogm", "--method_options", "alpah=1"], "did you mean alpha?"),
    ],
)
def test_what_the_second_stage_cannot_be_is_refused_before_any_run(capsys, words, message):
    assert call("main", [*WORDS, *words]) == 1
    assert message in capsys.readouterr().err
    assert not runs()
