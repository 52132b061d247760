"""The tracking store: a client for whatever it is, a database or a server."""

from __future__ import annotations

import os

import mlflow

from mm_balance.errors import UserError
from mm_balance.redaction import redact
from mm_balance.tracking.database import DatabaseClient, database_client
from mm_balance.tracking.outage.client import ServerClient

Client = DatabaseClient | ServerClient

_servers: dict[tuple[int, str], ServerClient] = {}
"""Process and address -> client: it knows what this process has logged."""


def new_client() -> Client:
    """Return a client of MLflow's current tracking store: one for a database that is complete, or for a server that answers.

    Raises:
        UserError: the store cannot be opened or made; the server does not answer.
    """
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return database_client(uri)
    key = os.getpid(), uri
    if key not in _servers:
        _servers[key] = ServerClient(uri)
    return _servers[key]


def sync() -> int:
    """Deliver what commands that have ended have left for the current tracking server; return how many entries that were.

    Raises:
        UserError: the store is no server, or the server does not answer.
    """
    client = new_client()
    if not isinstance(client, ServerClient):
        raise UserError(
            f"the tracking store {redact(mlflow.get_tracking_uri())} is no server, so nothing can be pending for it; set "
            "MLFLOW_TRACKING_URI=http://..."
        )
    return client.delivered_first


def close_servers() -> None:
    """At the end of a command, have everything delivered that can be, and say what cannot."""
    for server in _servers.values():
        server.close()
    _servers.clear()
