"""`repair`: find and close what killed processes have left."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import repair_options
from mm_balance.escaping import markdown_text


def run(request: Request, stop: Stop) -> None:
    """List what killed processes have left, and close it unless it is a dry run."""
    values = COMMAND.complete(request.given)
    from mm_balance.config import RepairConfig
    from mm_balance.repair.command import repair
    from mm_balance.tracking.lookup import adopted_run_id, open_run

    record = None if adopted_run_id() is None else open_run("repair")
    lines = repair(RepairConfig(**values), stop)
    if record is not None:
        record.describe("\n".join(f"- {markdown_text(line)}" for line in lines))
        record.terminate("FINISHED")


COMMAND = Command(
    name="repair",
    help="Find and close what killed processes have left: runs, trials, half-written files.",
    parameters=repair_options(),
    common=("dry_run", "older_than_hours"),
    run=run,
)
