"""`evaluate`: evaluate the model of a finished run on one split."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options, restore


def run(request: Request, stop: Stop) -> None:
    """Evaluate the logged model of ``run_id`` on ``split``, as a run of its own."""
    values = COMMAND.complete(request.given)
    from mm_balance.commands.training import check_same_data, failing, print_result
    from mm_balance.tracking.lookup import existing_run, open_run
    from mm_balance.workflow.report import accuracies
    from mm_balance.workflow.runs import run_evaluation
    from mm_balance.workflow.setup import read_data

    source = existing_run(values["run_id"], "run_id")
    split = values["split"]
    config = restore({**source.saved_config(), "data_dir": values["data_dir"]})
    data = read_data(config, stop)
    check_same_data(source, data)
    evaluation = open_run(f"evaluate {split} of {source.read().info.run_name}")
    with failing(evaluation):
        metrics = run_evaluation(source, split, data, evaluation, values["device"], probe=values["probe"])
    branches = evaluation.read().data.tags.get("mm.unimodal") == "branches"
    line = accuracies(metrics, split, tuple(data.specs), branches=branches)
    print_result(evaluation, line, f"{split} accuracy")


PARAMETERS = {
    name: option for name, option in options().items() if option.group == "evaluate" or name in ("data_dir", "device")
}

COMMAND = Command(
    name="evaluate",
    help="Evaluate the model of a finished run on one split.",
    parameters=PARAMETERS,
    common=("run_id", "split", "device"),
    required={"run_id": "give the id of a finished run of warmup, adaptive, train or main"},
    run=run,
)
