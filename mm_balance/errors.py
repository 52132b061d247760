"""User-facing errors and cooperative interruption.

Every other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """An error the user can fix: a bad value, a missing file, an unsuitable run.

    The message is one line: what is wrong, where (file, line, sample, parameter) and what to do. Entry points print it and exit
    with status 1, before any training if possible.
    """


class Diverged(UserError):
    """The training loss or a weight is no longer finite."""


class Interrupted(Exception):
    """Work was stopped on request, with its state saved."""
