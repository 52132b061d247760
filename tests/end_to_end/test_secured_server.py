"""Commands of a user without special rights, on a server with names, passwords and allowed hosts, as docs/security.md sets it up."""

import subprocess

import pytest
import requests

from tests.helpers.processes import environment, python_words
from tests.helpers.servers import free_port, tracking_server

pytestmark = pytest.mark.verify
ADMIN, USER = "a-long-admin-password", "a-long-user-password"
QUICK = ["--preset", "quick", "--train_fraction", "0.05"]


@pytest.fixture
def server(store):
    """Address of the server, which has the user ann."""
    pytest.importorskip("flask_wtf", reason="pip install '.[auth]'")
    port = free_port()
    config = store / "basic_auth.ini"
    config.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{store}/users.db\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 60\n"
    )
    options = [
        "--app-name",
        "basic-auth",
        "--allowed-hosts",
        f"127.0.0.1:{port}",
        "--cors-allowed-origins",
        "https://mlflow.example.org",
    ]
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789abcdef0123456789abcdef",
    }
    with tracking_server(store, port, options, variables) as address:
        made = requests.post(
            f"{address}/api/2.0/mlflow/users/create",
            json={"username": "ann", "password": USER},
            auth=("admin", ADMIN),
            timeout=60,
        )
        assert made.status_code == 200, made.text
        yield address


def ask(address, path, **more):
    return requests.get(f"{address}/api/2.0/mlflow/{path}", timeout=60, **more)


def test_a_user_without_special_rights_trains_and_studies_and_others_see_nothing(server, store):
    def start(entry_point, words, **variables):
        known = {"MLFLOW_TRACKING_URI": server, "MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": USER}
        return subprocess.run(
            python_words(entry_point, words),
            env=environment(store) | known | variables,
            cwd=store,
            capture_output=True,
            text=True,
        )

    def refused(**variables):
        done = start("main", QUICK, **variables)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "MLFLOW_TRACKING_USERNAME" in refused(MLFLOW_TRACKING_PASSWORD="wrong")
    assert "--allowed-hosts" in refused(MLFLOW_TRACKING_URI=server.replace("127.0.0.1", "localhost"))
    assert "MLFLOW_EXPERIMENT_NAME" in refused()  # experiment 0 belongs to the administrator

    for entry_point, words in (
        ("main", QUICK),
        ("study", [*QUICK, "--trials", "2", "--workers", "1", "--study_name", "secured", "--pruner", "none"]),
    ):
        done = start(entry_point, words, MLFLOW_EXPERIMENT_NAME="ann's")
        assert done.returncode == 0, done.stderr[-3000:]
    found = ask(server, "experiments/get-by-name", params={"experiment_name": "ann's"}, auth=("ann", USER)).json()
    experiment = found["experiment"]["experiment_id"]
    runs = requests.post(
        f"{server}/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment]}, auth=("ann", USER), timeout=60
    ).json()["runs"]
    assert {run["info"]["status"] for run in runs} == {"FINISHED"}
    assert len([run for run in runs if run["info"]["run_name"].startswith("trial-")]) == 2

    requests.post(
        f"{server}/api/2.0/mlflow/users/create",
        json={"username": "bob", "password": USER},
        auth=("admin", ADMIN),
        timeout=60,
    )
    run = runs[0]["info"]["run_id"]
    assert ask(server, "runs/get", params={"run_id": run}).status_code == 401
    assert ask(server, "runs/get", params={"run_id": run}, auth=("bob", USER)).status_code == 403
    assert ask(server, "runs/get", params={"run_id": run}, auth=("ann", USER)).status_code == 200
    assert (
        ask(
            server, "runs/get", params={"run_id": run}, auth=("ann", USER), headers={"Host": "evil.example"}
        ).status_code
        == 403
    )
