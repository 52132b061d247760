"""Passwords of the tracking server and of a study's storage: neither store, nor artifacts, terminal or process list have them."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.processes import environment, mlflow_words, python_words
from tests.helpers.servers import tracking_server

pytestmark = pytest.mark.verify
SERVER, STORAGE = "SECRETHTTP", "SECRETPW"
STUDY = "preset=quick train_fraction=0.05 trials=2 workers=2 study_name=secret pruner=none storage=env:STUDIES"


def command_lines():
    """What every user of this machine can see of our processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if b"MLFLOW_TRACKING_URI" not in line]


def watched(words, folder, variables):
    """Output of a program that has ended, and the command lines seen meanwhile."""
    seen = set()
    process = subprocess.Popen(
        words, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    os.set_blocking(process.stdout.fileno(), False)
    said = b""
    while process.poll() is None:
        seen.update(command_lines())
        said += process.stdout.read() or b""
        time.sleep(0.02)
    return process.returncode, said + (process.stdout.read() or b""), seen


@pytest.mark.parametrize("started", ["python", "mlflow"])
def test_no_password_is_published(store, started):
    with tracking_server(store) as address:
        # `mlflow run` itself prints the address as it is, so there the password stands where docs/studies.md says.
        in_address = {"MLFLOW_TRACKING_URI": address.replace("://", f"://bob:{SERVER}@")}
        beside = {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_USERNAME": "bob", "MLFLOW_TRACKING_PASSWORD": SERVER}
        variables = (
            environment(store)
            | (in_address if started == "python" else beside)
            | {
                # SQLite takes no password, and ignores the parameters of a file that it does not know.
                "STUDIES": f"sqlite:///file:{store}/optuna.db?uri=true&password={STORAGE}",
            }
        )
        parts = [part for word in STUDY.split() for part in ("--" + word.split("=", 1)[0], word.split("=", 1)[1])]
        words = python_words("study", parts) if started == "python" else mlflow_words("study", STUDY)
        status, said, seen = watched(words, store, variables)
        assert status == 0, said.decode()[-3000:]
        failed, complaint, _ = watched(python_words("evaluate", ["--run_id", "nosuch"]), store, variables)
        assert failed == 1
        assert (b"no such run in http://bob:***@127.0.0.1" in complaint) == (started == "python")
    for secret in (SERVER.encode(), STORAGE.encode()):
        assert secret not in said + complaint
        assert not [line for line in seen if secret in line]
        assert not [path for path in store.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert any(b"env:MM_BALANCE_STORAGE" in line for line in seen)
    assert any(sys.executable.encode() in line for line in seen)
