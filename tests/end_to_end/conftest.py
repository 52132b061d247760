"""What a user starts, started as `mlflow run` starts it."""

from dataclasses import dataclass

import pytest

from tests.helpers.commands import adopt
from tests.helpers.processes import mlflow_run


@pytest.fixture(autouse=True)
def _signals_are_given_back(signals):
    """Commands run in this process."""


@dataclass
class Ended:
    """A command that has ended: its exit status, and what it printed."""

    status: int
    said: str
    errors: str


@pytest.fixture(params=["in process", pytest.param("mlflow run", marks=pytest.mark.verify)])
def launch(request, store, monkeypatch, capsys):
    """A function that runs an entry point with ``name=value`` words in a run that is there already.

    Once in this process, in a run made as `mlflow run` makes it; once, for `make verify`, through `mlflow run` itself.
    """

    def in_process(entry_point, words="", **more):
        capsys.readouterr()
        status, _ = adopt(monkeypatch, entry_point, words, **more)
        said, errors = capsys.readouterr()
        return Ended(status, said, errors)

    def through_mlflow(entry_point, words="", **more):
        done = mlflow_run(store, entry_point, words, **more)
        return Ended(done.returncode, done.stdout, done.stderr)

    return in_process if request.param == "in process" else through_mlflow
