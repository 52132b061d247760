"""`sync`: deliver what was logged while the tracking server did not answer."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop


def run(request: Request, stop: Stop) -> None:
    """Deliver everything that commands which have ended have left on this machine for the tracking server."""
    from mm_balance.tracking.lookup import adopted_run_id, open_run
    from mm_balance.tracking.store import sync

    delivered = sync()
    line = "nothing is pending" if delivered == 0 else f"{delivered} entries delivered"
    print(line)
    if adopted_run_id() is not None:
        record = open_run("sync")
        record.describe(f"What was logged on a machine while this server did not answer: {line}.")
        record.terminate("FINISHED")


COMMAND = Command(
    name="sync",
    help="Deliver what was logged while the tracking server did not answer.",
    parameters={},
    common=(),
    run=run,
)
