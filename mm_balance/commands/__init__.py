"""The commands, one file each: its parameters, its help, and the function that runs it.

Importing this package does not load PyTorch, MLflow or Optuna: arguments are parsed and checked first, and each command imports
what it needs when it runs.
"""

from mm_balance.commands.registry import COMMANDS, Command

__all__ = ["COMMANDS", "Command"]
