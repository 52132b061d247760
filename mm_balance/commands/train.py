"""`train`: one stage of any method."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mm_balance.commands.command import Command, Request, Stop
from mm_balance.config import Config, stage_options
from mm_balance.methods import find_method, method_names, option_lines

if TYPE_CHECKING:
    from mm_balance.commands.training import Read
    from mm_balance.data import MultimodalData
    from mm_balance.tracking.runs import TrackedRun


def run(request: Request, stop: Stop) -> None:
    """Train one stage of a method, or resume ``resume_run``."""
    train(request, stop)


def train(request: Request, stop: Stop, read: Read | None = None) -> TrackedRun:
    """Do the same and return the run; ``read`` reads the data, by default those that the parameters name."""
    from mm_balance.commands.training import add_explorer, open_training, print_validation
    from mm_balance.workflow.plans import train_plan
    from mm_balance.workflow.runs import run_stage
    from mm_balance.workflow.setup import read_data
    from mm_balance.workflow.warmups import choose_warmup, follows_warmup

    def choose(config: Config, data: MultimodalData) -> TrackedRun | None:
        return choose_warmup(config, data) if follows_warmup(config) else None

    with open_training(COMMAND, request, stop, train_plan, choose_warmup=choose, read=read or read_data) as training:
        result = run_stage(training.plan, training.data, training.run, stop, training.warmup)
        add_explorer(training, training.plan.config, stop)
        print_validation(result)
        return training.run


def method_help(arguments: Sequence[str]) -> str:
    """Return help on the method named on the command line, or the names of all methods."""
    named = [after for before, after in pairwise(arguments) if before == "--method"]
    named += [item.removeprefix("--method=") for item in arguments if item.startswith("--method=")]
    if not named:
        names = ", ".join(method_names())
        return f"methods: {names}, or package.module:Class\n\n`--method NAME --help` lists a method's own options."
    method = find_method(named[-1])
    lines = option_lines(method.Options) or ["none"]
    return f"{method.name}: {method.title}. {method.citation}\noptions:\n" + "\n".join(f"  {line}" for line in lines)


COMMAND = Command(
    name="train",
    help="One stage of any method, from scratch or after a warm-up run.",
    parameters=stage_options("train"),
    common=(
        "dataset",
        "preset",
        "method",
        "method_options",
        "encoder",
        "seed",
        "device",
        "epochs",
        "learning_rate",
        "warmup_run",
        "resume_run",
    ),
    run=run,
    defaults={"method": "concat"},
    epilog=method_help,
)
