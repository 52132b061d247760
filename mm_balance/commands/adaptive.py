"""`adaptive`: stage 2 of the paper's method, from a finished warm-up run."""

from __future__ import annotations

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import ADAPTIVE_METHOD, stage_options


def run(request: Request, stop: Stop) -> None:
    """Train stage 2, or resume ``resume_run``."""
    from mm_balance.commands.training import add_explorer, open_training, print_validation
    from mm_balance.workflow.plans import adaptive_plan
    from mm_balance.workflow.runs import run_stage
    from mm_balance.workflow.warmups import choose_warmup

    with open_training(COMMAND, request, stop, adaptive_plan, choose_warmup=choose_warmup) as training:
        result = run_stage(training.plan, training.data, training.run, stop, training.warmup)
        add_explorer(training, training.plan.config, stop)
        print_validation(result)


COMMAND = Command(
    name="adaptive",
    help="Stage 2 from a finished warm-up run.",
    parameters=stage_options("adaptive"),
    common=(
        "dataset",
        "preset",
        "seed",
        "device",
        "warmup_run",
        "adaptive_epochs",
        "refit_every",
        "loss_form",
        "gap_weight",
        "resume_run",
    ),
    run=run,
    fixed={"method": ADAPTIVE_METHOD},
)
