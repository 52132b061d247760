"""The page of an experiment: described once, and our view of it kept up to date."""

import json

from mm_balance.tracking.experiment_page import (
    DESCRIPTION,
    LONGEST_TAG,
    VIEW_TAG,
    prepare_page,
    view_link,
    view_state,
)
from mm_balance.tracking.lookup import open_run


def test_the_view_has_one_chart_of_all_accuracies_and_columns_of_results():
    state = json.loads(view_state(["audio", "visual", "text"]))
    chart = state["compareRunCharts"][0]
    accuracy = "both_stages/val_accuracy"
    assert chart["selectedMetricKeys"] == [accuracy, f"{accuracy}_audio", f"{accuracy}_visual", f"{accuracy}_text"]
    assert state["compareRunCharts"][1]["selectedMetricKeys"] == ["both_stages/gap_mean", "both_stages/val_gap_mean"]
    sections = {item["uuid"]: item["display"] for item in state["compareRunSections"]}
    assert sections[chart["metricSectionId"]]
    assert not any(sections[name] for name in ("cost", "time", "selection"))
    assert "metrics.`test/accuracy_text`" in state["selectedColumns"]


def test_the_view_fits_into_a_tag_with_many_modalities():
    names = [f"modality_{number}" for number in range(8)]
    assert len(view_state(names)) <= LONGEST_TAG


def test_a_description_of_somebody_else_is_kept_and_the_view_follows_the_data(store):
    run = open_run("first")
    prepare_page(run, ["audio", "visual"])
    tags = run.experiment_tags()
    assert tags["mlflow.note.content"] == DESCRIPTION
    assert tags[VIEW_TAG] == view_state(["audio", "visual"])
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    run.set_experiment_tags({"mlflow.note.content": "ours", "mlflow.experimentKind": "theirs"})
    prepare_page(open_run("second"), ["audio", "text"])
    tags = run.experiment_tags()
    assert (tags["mlflow.note.content"], tags["mlflow.experimentKind"]) == ("ours", "theirs")
    assert tags[VIEW_TAG] == view_state(["audio", "text"])
    assert VIEW_TAG.removeprefix("mlflow.sharedViewState.") in view_link(run)
