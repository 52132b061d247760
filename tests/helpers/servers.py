"""A real tracking server on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.processes import environment


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tracking_server(
    store: Path, port: int | None = None, options: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a tracking server that has the database of ``store`` and proxies artifacts to its folder ``served``.

    ``options`` and ``variables`` (of its environment) are further ones.
    """
    port = port or free_port()
    process = subprocess.Popen(
        ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
         f"sqlite:///{store}/mlflow.db", "--artifacts-destination", str(store / "served"), *options],
        env=environment(store) | {"MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | dict(variables or {}),
        cwd=store, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
