"""Which runs a report is about, and what their settings are."""

from mm_balance.report.runs import collect, settings_of
from tests.report.examples import evaluation_of, record


def test_test_results_come_from_the_newest_evaluation_of_a_run():
    run = record()
    older, newer = evaluation_of(run, 0.5, 0.4, 0.3), evaluation_of(run, 0.6, 0.4, 0.3)
    (found,) = collect([newer, older, run]).runs
    assert found.metrics["test/accuracy"] == 0.6


def test_parts_of_other_runs_are_counted_but_no_runs_of_their_own():
    warmup = record(stage="warmup")
    after = record("gap_mixture", stage="adaptive", tags={"mm.warmup_run": warmup.run_id})
    nested = record(stage="adaptive", tags={"mlflow.parentRunId": "main"})
    resumed = record(tags={"resumed_run": "other"})
    study = record(stage="study")
    collection = collect([study, resumed, nested, after, warmup])
    assert [run.run_id for run in collection.runs] == [after.run_id]
    assert collection.nested == 2


def test_a_second_stage_alone_is_known_by_its_method_which_is_no_parameter_of_it():
    run = record("gap_mixture", stage="adaptive")
    del run.parameters["config/method"]
    (found,) = collect([run]).runs
    assert found.settings["method"] == "gap_mixture"


def test_a_run_of_the_whole_recipe_has_the_gaps_of_its_last_stage():
    parent = record("gap_mixture", stage="main", metrics={"val/accuracy": 0.9})
    nested = {"mlflow.parentRunId": parent.run_id}
    warmup = record(stage="warmup", tags=nested, metrics={"gap/mean": 0.5, "val/accuracy": 0.1})
    adaptive = record("gap_mixture", stage="adaptive", tags=nested, metrics={"gap/mean": 0.2, "val/accuracy": 0.8})
    (found,) = collect([adaptive, warmup, parent]).runs
    assert (found.metrics["gap/mean"], found.metrics["val/accuracy"]) == (0.2, 0.9)


def test_a_warm_up_that_nothing_started_from_is_a_run_of_its_own():
    (found,) = collect([record(stage="warmup", metrics={"val/accuracy": 0.5})]).with_results("val")
    assert found.stage == "warmup"


def test_failed_runs_and_runs_without_results_are_told_apart():
    failed = record(status="FAILED", tags={"mm.error": "diverged in epoch 3"})
    waiting = record(metrics={"val/accuracy": 0.5})
    collection = collect([failed, waiting])
    assert [run.error for run in collection.failed()] == ["diverged in epoch 3"]
    assert [run.run_id for run in collection.without_results("test")] == [waiting.run_id]
    assert not collection.with_results("test")


def test_settings_are_what_was_trained_not_where_by_whom_or_with_which_seed():
    logged = {
        "config/seed": "3", "config/device": "cpu", "config/preset": "/x/grid.yaml", "config/method_options": "margin=2.0",
        "config/corruption": "0.4", "method/margin": "2.0", "other": "x",
    }  # fmt: skip
    tags = {"config/epochs": "12", "config/data_dir": "/data", "mm.seed": "3"}
    assert settings_of(logged, tags) == {"corruption": "0.4", "margin": "2.0", "epochs": "12"}
