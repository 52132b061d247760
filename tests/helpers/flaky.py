"""A tracking server that goes away and comes back as a test wants, without a server: its requests reach a database."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mm_balance.tracking import store as store_module
from mm_balance.tracking.outage import client as client_module

ADDRESS = "http://ann:SECRETPW@tracking.test:5000"


class Weather:
    """What happens to requests.

    Attributes:
        count: number of requests so far.
        away: the first and the last request that fail; by default none.
        lost: whether failing requests have their effect, and only their answer is lost.
        hangs: set while requests hang until ``released`` is set.
        killed_before, killed_after: number of the request before or after which this process is killed.
    """

    def __init__(self):
        self.count = 0
        self.away = range(0)
        self.lost = False
        self.hangs = threading.Event()
        self.released = threading.Event()
        self.code = None
        self.killed_before = self.killed_after = 0

    def fail(self):
        if self.code is not None:
            raise MlflowException("failed", error_code=self.code)
        raise MlflowException(
            "API request to http://ann:SECRETPW@tracking.test:5000/api failed with exception HTTPConnectionPool: Connection refused"
        )

    @contextmanager
    def outage(self):
        """The server is away in the block."""
        self.away = range(self.count + 1, 10**9)
        yield
        self.away = range(0)


class FlakyClient:
    """A client of the database, whose requests fail while the server is away."""

    def __init__(self, weather, uri):
        self._weather, self._client = weather, MlflowClient(uri)

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def request(*words, **more):
            weather = self._weather
            weather.count += 1
            if weather.count == weather.killed_before:
                os.kill(os.getpid(), signal.SIGKILL)
            if weather.hangs.is_set():
                weather.released.wait(30)
            if weather.count in weather.away:
                if weather.lost:
                    method(*words, **more)
                weather.fail()
            answer = method(*words, **more)
            if weather.count == weather.killed_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return request


def use_flaky_server(folder, patch, *, every=0.05):
    """Commands of this process use a server with the database of ``folder``, a copy of an empty one; return its weather."""
    weather = Weather()
    uri = f"sqlite:///{folder}/mlflow.db"
    patch.setattr(client_module, "MlflowClient", lambda address: FlakyClient(weather, uri))
    patch.setattr(client_module, "PROBE_EVERY_SECONDS", every)
    patch.setattr(client_module.connection, "AGAIN_SECONDS", 0.0)
    patch.setattr(store_module, "_servers", {})
    patch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    mlflow.set_tracking_uri(ADDRESS)
    return weather
