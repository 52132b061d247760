"""Find what killed processes have left, and close it."""

from __future__ import annotations

from collections.abc import Callable

from mm_balance.config import RepairConfig
from mm_balance.errors import Interrupted
from mm_balance.repair.files import dead_marks, half_written_files, spools, work_folders
from mm_balance.repair.finding import Finding
from mm_balance.repair.runs import dead_runs
from mm_balance.repair.trials import dead_trials
from mm_balance.tracking.unfinished import unfinished_runs

NOTHING = "nothing to repair"


def repair(config: RepairConfig, stop: Callable[[], bool], say: Callable[[str], object] = print) -> list[str]:
    """Close what dead processes have left, and say what was done, line by line.

    Trials come before runs, because they close their own ones, and files last: marks of dead processes are what tells that a run is
    dead.

    Args:
        config: what to close.
        stop: polled between any two.
        say: called with each line.

    Returns:
        The lines.

    Raises:
        Interrupted: a stop was requested.
    """
    lines = list[str]()

    def settle(findings: list[Finding]) -> None:
        for finding in findings:
            if stop():
                raise Interrupted
            if finding.close is not None and not config.dry_run:
                finding.close()
            lines.append(finding.line(dry_run=config.dry_run))
            say(lines[-1])

    runs = unfinished_runs()
    trials, closed_with_them = dead_trials(runs)
    settle(trials)
    settle(dead_runs(runs, config.older_than_hours, closed_with_them))
    for find in (half_written_files, work_folders, dead_marks, spools):
        settle(find())
    if not lines:
        lines.append(NOTHING)
        say(NOTHING)
    return lines
