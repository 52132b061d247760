"""The embedded data, made once in a process: making them takes a second, and most commands in tests train on them."""

from functools import lru_cache

from mm_balance import data

kept = lru_cache(maxsize=4)(data.load_digits)


def keep(patch) -> None:
    """Have commands of this process use what was made before."""
    patch.setattr(data, "load_digits", kept)
