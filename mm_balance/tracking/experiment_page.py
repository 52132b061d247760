"""What the page of an experiment shows: a description, and a view with columns and charts of our choice.

MLflow keeps a view that somebody shares in the experiment tag ``mlflow.sharedViewState.<key>``, and the address
``...?viewStateShareKey=<key>`` opens it. The format is not documented: it is that of the UI of MLflow 3.17, and a UI that does not
know it shows its own default view.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from mm_balance import names
from mm_balance.tracking.lookup import server_address
from mm_balance.tracking.runs import EXPERIMENT_KIND, TrackedRun

VIEW_KEY = "mm-balance"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
LONGEST_TAG = 5000
"""Characters of an experiment tag's value that every store of MLflow accepts."""

DESCRIPTION = """Runs of MM-Balance: how far one modality lags behind another, sample by sample, and training against it.

- A run of `main` has the warm-up, the second stage and the test as nested runs (`+` in the table). `both_stages/...` are its series
over both stages, `test/...` its results; its description says who is ahead.
- A nested stage has the image `balance/density`: gaps and their mixture, with a slider of epochs; click it to see it in full size.
- `val/gap_mean` is the mean gap on validation: positive = the first modality is ahead. Gaps of training samples (`gap/...`) shrink by
memorizing alone.
- Columns and charts chosen for these runs: put `?viewStateShareKey=mm-balance` behind this page's address."""

COLLAPSED = ("test", "balance", "gap", "gmm", "cost", "selection", "system", "time", "train", "truth")
"""Sections of charts that start closed: details, and single numbers."""


def prepare_page(run: TrackedRun, modalities: Sequence[str]) -> None:
    """Describe the experiment of ``run`` unless somebody has, and keep our view of it for these modalities up to date."""
    present = run.experiment_tags()
    wanted = {VIEW_TAG: view_state(modalities)}
    wanted |= {
        name: text for name, text in ((MLFLOW_RUN_NOTE, DESCRIPTION), *EXPERIMENT_KIND.items()) if name not in present
    }
    run.set_experiment_tags({name: text for name, text in wanted.items() if present.get(name) != text})


def view_link(run: TrackedRun) -> str:
    """Return the URL of the experiment of ``run`` in the MLflow UI, opened with our columns and charts."""
    return (
        f"{server_address()}/#/experiments/{run.read().info.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"
    )


def view_state(modalities: Sequence[str]) -> str:
    """Return the view as the UI stores it: columns of the table of runs, sections and charts.

    Args:
        modalities: names of the modalities, whose accuracies get columns and lines.
    """
    sections: dict[str, dict[str, list[str]]] = {
        # MLflow titles a chart of several metrics with their names, so the section says what its charts are.
        "Both stages: validation accuracy; mean gap; mean abs(gap)": {
            "validation accuracy": _both("val/accuracy", *(f"val/accuracy_{name}" for name in modalities)),
            "mean gap: training, validation": _both("gap/mean", "val/gap_mean"),
            "mean abs(gap): training, validation": _both("gap/mean_abs", "val/gap_mean_abs"),
        },
        "both_stages": {},
        "val": {},
        **{name: {} for name in COLLAPSED},
    }
    charts = [
        _line_chart(title, metrics, section)
        for section, members in sections.items()
        for title, metrics in members.items()
    ]
    columns = [
        *(f"tags.`{name}`" for name in ("mm.method", "mm.dataset", "mm.seed", "mm.changed", "mm.stage")),
        *(f"metrics.`{name}`" for name in _results(modalities)),
    ]
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "compareRunCharts": charts,
        "compareRunSections": [
            {
                "uuid": name,
                "name": name,
                "display": name not in COLLAPSED and name != "both_stages",
                "isReordered": True,
            }
            for name in sections
        ],
        "isAccordionReordered": True,
    }
    return json.dumps(state, separators=(",", ":"))


def _both(*metrics: str) -> list[str]:
    return [copied for name in metrics if (copied := names.both_stages(name)) is not None]


def _results(modalities: Sequence[str]) -> list[str]:
    return ["test/accuracy", *(f"test/accuracy_{name}" for name in modalities), "val/accuracy", "val/gap_mean"]


def _line_chart(title: str, metrics: list[str], section: str) -> dict[str, Any]:
    """Return a chart of several metrics; the other settings are those of a new chart in the UI."""
    return {
        "uuid": title,
        "type": "LINE",
        "metricSectionId": section,
        "isGenerated": False,
        "deleted": False,
        "runsCountToCompare": 10,
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
