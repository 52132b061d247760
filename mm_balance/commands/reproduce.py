"""`reproduce`: every run behind the tables of the paper and of the report, as one plan that can be stopped and continued."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import options, reproduction_options


def run(request: Request, stop: Stop) -> None:
    """Print the plan, and do what is missing of it unless it is a dry run."""
    values = COMMAND.complete(request.given)
    machine = {name: values.pop(name) for name in MACHINE}
    from mm_balance.config import ReproductionConfig
    from mm_balance.reproduction.command import reproduce

    reproduce(ReproductionConfig(**values), machine, stop)


MACHINE = ("data_dir", "device", "allow_outside")
PARAMETERS = {**reproduction_options(), **{name: options()[name] for name in MACHINE}}

COMMAND = Command(
    name="reproduce",
    help="Every run behind the tables of the paper and of the report; the same command goes on where it was stopped.",
    parameters=PARAMETERS,
    common=("preset", "dry_run", "seeds", "tables", "dataset"),
    run=run,
)
