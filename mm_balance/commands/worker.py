"""`worker`: an additional worker of a study, for other machines and schedulers."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import AUTO, options, study_options
from mm_balance.errors import UserError


def run(request: Request, stop: Stop) -> None:
    """Train trials of a study until it is complete."""
    values = COMMAND.complete(request.given)
    if values["study_name"] == AUTO:
        raise UserError("study_name is missing; `study` prints it, and its run is named after it")
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
    run=run,
)
