"""`worker`: an additional worker of a study, for other machines and schedulers."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options, study_options


def run(request: Request, stop: Stop) -> None:
    """Train trials of a study until it is complete."""
    values = COMMAND.complete(request.given)
    from mm_balance.study.command import run_as_worker

    run_as_worker(values["study_name"], values["storage"], values["device"], stop)


PARAMETERS = {
    "device": options()["device"],
    **{name: study_options()[name] for name in ("study_name", "storage")},
}

COMMAND = Command(
    name="worker",
    help="Additional worker of an existing study, for other machines and schedulers.",
    parameters=PARAMETERS,
    common=("study_name", "storage", "device"),
    required={"study_name": "`study` prints it, and its run is named after it"},
    run=run,
)
