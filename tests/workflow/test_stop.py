"""What signals do to a running command."""

import os
import signal
import time

import pytest

from mm_balance.commands import guard
from mm_balance.commands.guard import StopRequest, run_guarded
from mm_balance.errors import Interrupted


@pytest.fixture
def stop(signals):
    return StopRequest()


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # until the interpreter has called the handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_is_a_request(stop, number):
    assert not stop()
    send(number)
    assert stop()
    assert stop.signal == number


def test_mlflows_own_signal_after_ctrl_c_is_the_same_request(stop):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        send(number)
    assert stop.signal == signal.SIGINT


def test_ctrl_c_a_while_later_ends_at_once_and_sigterm_never_does(stop, monkeypatch):
    monkeypatch.setattr(guard, "AGAIN_SECONDS", 0.0)
    send(signal.SIGINT)
    send(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


@pytest.mark.parametrize(("raised", "status"), [(Interrupted(), 128 + signal.SIGTERM), (KeyboardInterrupt(), 130)])
def test_a_stopped_command_has_the_shells_exit_status(stop, monkeypatch, raised, status):
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    def body(request):
        raise raised

    assert run_guarded(body) == status
