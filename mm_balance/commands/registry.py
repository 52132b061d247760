"""Registry of commands by name."""

from __future__ import annotations

from mm_balance.commands import (
    adaptive,
    evaluate,
    explore,
    main,
    prepare,
    repair,
    report,
    reproduce,
    study,
    sync,
    train,
    warmup,
    worker,
)
from mm_balance.commands.command import Command

COMMANDS: dict[str, Command] = {
    module.COMMAND.name: module.COMMAND
    for module in (
        main,
        warmup,
        adaptive,
        train,
        evaluate,
        explore,
        report,
        prepare,
        study,
        worker,
        reproduce,
        repair,
        sync,
    )
}
