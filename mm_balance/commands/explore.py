"""`explore`: the samples of a finished run as one page."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options, restore


def run(request: Request, stop: Stop) -> None:
    """Log the explorer of ``run_id`` on that run, possibly compared with the run ``against``."""
    values = COMMAND.complete(request.given)
    from mm_balance import names
    from mm_balance.commands.training import check_same_data
    from mm_balance.tracking.lookup import existing_run, run_link
    from mm_balance.workflow.explore import explore
    from mm_balance.workflow.setup import read_data

    source = existing_run(values["run_id"], "run_id")
    against = None if values["against"] is None else existing_run(values["against"], "against")
    config = restore({**source.saved_config(), "data_dir": values["data_dir"]})
    data = read_data(config, stop)
    check_same_data(source, data)
    table = explore(
        source,
        data,
        config,
        worst=values["worst"],
        source=values["source"],
        against=against,
        device=values["device"],
        stop=stop,
    )
    doubted = table[(table["split"] == "train") & (table["doubted"] != "")]
    print(
        f"{len(table)} samples, {len(doubted)} training samples doubted; {names.EXPLORER_FILE} is an artifact of the run"
    )
    print(f"run:  {source.run_id}")
    print(f"link: {run_link(source)}")


PARAMETERS = {name: options()[name] for name in ("run_id", "against", "worst", "source", "data_dir", "device")}

COMMAND = Command(
    name="explore",
    help="The samples of a finished run as one page: see and hear which modality of which sample is suspect.",
    parameters=PARAMETERS,
    common=("run_id", "against", "worst", "source", "device"),
    required={"run_id": "give the id of a finished run of main, train, adaptive or warmup"},
    run=run,
)
