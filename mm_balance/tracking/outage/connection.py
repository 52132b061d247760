"""Requests to a tracking server, in a thread that can be abandoned, and which errors mean that the server is away."""

from __future__ import annotations

import errno
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import TypeVar

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mm_balance import stopping
from mm_balance.errors import UserError

T = TypeVar("T")

PROBE_SECONDS = 5.0
REQUEST_SECONDS = 30
"""Time for one request; a server that takes longer counts as away."""
STOP_SECONDS = 1.0
"""When a stop is requested, a request that is waiting is given up after this time: the server may be away."""
LAST_SECONDS = 5.0
"""Time for a request that is made after a stop has been requested, to end the run."""
AGAIN_SECONDS = 1.0
"""After a quick error, a request is tried once more before the server counts as away."""
QUICK_SECONDS = 5.0
_SLICE_SECONDS = 0.1
_NO_ANSWER = ("failed with exception", "failed with timeout exception")
_CODES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Away(Exception):
    """The server does not answer, or answers that it cannot."""


class Closed(Away):
    """The server answers, but does not let this user, or this address of it, in. What is logged meanwhile waits, as in an outage."""


def limit_requests() -> None:
    """Have MLflow neither repeat a request by itself, for minutes and in silence, nor wait for one for long; the user's values win.

    It does not print the address of the server either.
    """
    os.environ.setdefault(
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
    )  # with its password; commands print links without
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))


def means_away(error: BaseException) -> bool:
    """Whether an error says that the server is away, rather than that it refuses what it was asked to do."""
    if isinstance(error, requests.HTTPError):
        return error.response is None or error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(error, (requests.ConnectionError, requests.Timeout)):
        return True
    if isinstance(error, OSError) and error.errno in _FULL:  # of a disk that is shared with the server
        return True
    if not isinstance(error, MlflowException):
        return False
    text = str(error)
    if any(words in text for words in _NO_ANSWER):
        return True
    return error.error_code in _CODES and not is_conflict(error)


def why_closed(error: BaseException) -> str:
    """Return why the server lets nobody in this way, and what to do; empty = for this it is not."""
    if "Invalid Host header" in str(error):
        return "it does not accept this name of itself; use one of its --allowed-hosts in MLFLOW_TRACKING_URI, or add this one there"
    if _status(error) == 401:
        return (
            "it wants a user name and a password, or does not know yours; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return ""


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer that is an error; None = it is none."""
    if isinstance(error, requests.HTTPError):
        return None if error.response is None else error.response.status_code
    return error.get_http_status_code() if isinstance(error, MlflowException) else None


def is_conflict(error: MlflowException) -> bool:
    """Whether two processes have added the same row at once: MLflow looks it up first, and the loser has an error."""
    return "unique" in str(error).lower()


class Requests:
    """Makes requests one after another, in a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Callable[[], object], Future[object]]] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking server", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while True:
            ask, answer = self._queue.get()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

    def make(self, ask: Callable[[], T], *, seconds: float = math.inf, attempts: int = 2) -> T:
        """Return the answer to a request.

        Args:
            ask: makes the request.
            seconds: time to wait for an answer.
            attempts: how often it is made if the server is away.

        Raises:
            Away: there is no answer in time, or before a stop that is requested meanwhile; ``Closed`` if nobody is let in this way.
            UserError: the user may not do this.
            Exception: whatever else ``ask`` raises.
        """
        for attempt in range(attempts):
            if attempt:
                _sleep(AGAIN_SECONDS)
            began = time.monotonic()
            try:
                return self._wait(ask, seconds)
            except Exception as error:
                if isinstance(error, Away):
                    raise
                if why := why_closed(error):
                    raise Closed(why) from error
                if _status(error) == 403:
                    raise UserError(
                        "this user may not do what this step needs on the tracking server (403); set MLFLOW_EXPERIMENT_NAME to an "
                        "experiment that you may change, or a new one, or ask whose it is"
                    ) from error
                if not means_away(error):
                    raise
                last = error
            if time.monotonic() - began > QUICK_SECONDS:
                break
        raise Away(_short(last)) from last

    def _wait(self, ask: Callable[[], T], seconds: float) -> T:
        answer: Future[T] = Future()
        self._queue.put((ask, answer))  # type: ignore[arg-type]
        patience = LAST_SECONDS if stopping.requested.is_set() else STOP_SECONDS
        last = time.monotonic() + seconds
        stop = math.inf
        while True:
            try:
                return answer.result(timeout=_SLICE_SECONDS)
            except NotYet:
                if answer.done():  # the request itself raised a TimeoutError
                    return answer.result()
            if stopping.requested.is_set():
                stop = min(stop, time.monotonic() + patience)
            if time.monotonic() > min(last, stop):
                answer.cancel()
                raise Away("no answer in time")


def is_there(client: MlflowClient) -> None:
    """Ask the server for as little as possible. Raises an error if it does not answer."""
    client.search_experiments(max_results=1)


def _sleep(seconds: float) -> None:
    last = time.monotonic() + seconds
    while time.monotonic() < last and not stopping.requested.is_set():
        time.sleep(_SLICE_SECONDS)


def _short(error: BaseException) -> str:
    """Return the reason within MLflow's and the libraries' many words."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    for words, reason in (
        ("Connection refused", "connection refused"),
        ("Name or service not known", "unknown host"),
        ("Temporary failure in name resolution", "unknown host"),
        (
            "CERTIFICATE_VERIFY_FAILED",
            "its certificate is not trusted; MLFLOW_TRACKING_SERVER_CERT_PATH names one of your own authority",
        ),
        ("timed out", "no answer in time"),
        ("timeout", "no answer in time"),
        ("Remote end closed connection", "the connection was closed"),
        ("Connection reset", "the connection was closed"),
    ):
        if words in text:
            return reason
    return text[:200]
