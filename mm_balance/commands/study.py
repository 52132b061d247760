"""`study`: an Optuna study with one worker process per device."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import stage_options, study_options


def run(request: Request, stop: Stop) -> None:
    """Create a study, or continue it if it exists."""
    from mm_balance.commands.guard import close_adopted
    from mm_balance.commands.training import print_result
    from mm_balance.study.command import run_study

    finished = run_study(request.given, stop)
    close_adopted(finished.run)
    if finished.best:
        print_result(finished.run, finished.best, f"best {finished.objective}")


PARAMETERS = {
    **{name: option for name, option in stage_options("study").items() if not option.one_process},
    **study_options(),
}

COMMAND = Command(
    name="study",
    help="Optuna study with one worker process per device; the same command continues it.",
    parameters=PARAMETERS,
    common=(
        "dataset",
        "preset",
        "method",
        "search",
        "space",
        "trials",
        "workers",
        "devices",
        "storage",
        "objective",
        "confirm_seeds",
        "study_name",
    ),
    run=run,
)
