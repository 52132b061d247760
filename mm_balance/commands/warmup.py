"""`warmup`: stage 1 only."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import stage_options


def run(request: Request, stop: Stop) -> None:
    """Train stage 1, or resume ``resume_run``."""
    from mm_balance.commands.training import open_training, print_validation
    from mm_balance.workflow.plans import warmup_plan
    from mm_balance.workflow.runs import run_stage

    with open_training(COMMAND, request, stop, warmup_plan) as training:
        print_validation(run_stage(training.plan, training.data, training.run, stop))


COMMAND = Command(
    name="warmup",
    help="Stage 1, followed by the first gap measurement and mixture fit.",
    parameters=stage_options("warmup"),
    common=("dataset", "preset", "encoder", "seed", "device", "warmup_epochs", "learning_rate", "resume_run"),
    run=run,
)
