"""The one exception a user is meant to read, and the one that is no mistake.

Every other exception is a defect of the program and keeps its traceback.
"""


class UserError(Exception):
    """Something the user can put right: a bad value, a missing file, an unsuitable run.

    The message is one line that says what is wrong, where (file, line, sample, parameter) and what to do.
    Entry points print it and exit with status 1, before any training where that is possible.
    """


class Diverged(UserError):
    """The training loss, or a weight, is no longer finite."""


class Interrupted(Exception):
    """DecodeSettings stopped on request, with its state saved."""
