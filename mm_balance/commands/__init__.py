"""What a user can run: one file a command, with what it takes, its help, and what it does.

Importing this package loads no PyTorch, MLflow or Optuna: arguments are parsed and checked first, and each command loads what it
needs when it runs.
"""

from mm_balance.commands.guard import run_command, run_guarded
from mm_balance.commands.registry import COMMANDS, Command

__all__ = ["COMMANDS", "Command", "run_command", "run_guarded"]
