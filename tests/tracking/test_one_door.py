"""Everything that is written to MLflow is written by `TrackedRun`: to a database itself, to a server by way of `outage`."""

import ast
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from mm_balance.tracking.outage.operations import PERFORMERS

ROOT = Path(__file__).parents[2]
TRACKING = ROOT / "mm_balance" / "tracking"
RUNS = TRACKING / "runs.py"
OUTAGE = TRACKING / "outage"
"""The client that stands in the place of MLflow's where the store is a server."""
DATABASE = TRACKING / "database.py"
"""MLflow's client, with models."""
WRITING = ("log_", "set_", "create_", "update_", "delete_", "restore_")
WRITERS = {name for name in dir(MlflowClient) if name.startswith(WRITING)} | {"log_model"}
SOURCES = sorted(
    path
    for folder in ("mm_balance", "analysis", "benchmarks", "entrypoints", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
OTHERS = [path for path in SOURCES if path != RUNS]


def relative(path):
    return str(path.relative_to(ROOT))


def clients(tree):
    """Names and attributes by which a client of MLflow is held or used."""
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    attributes = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    imported = [item.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for item in node.names]
    return {*names, *attributes, *imported} & {"client", "_client", "MlflowClient"}


def writes(tree):
    """Calls that write to MLflow: a writing method of the client on whatever object, `mlflow.log_...`, `Model.log`."""
    written = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        holder = node.func.value.id if isinstance(node.func.value, ast.Name) else None
        name = node.func.attr
        fluent = holder == "mlflow" and name.startswith(("log_", "start_", *WRITING))
        if name in WRITERS or fluent or (holder, name) == ("Model", "log"):
            written.append(name)
    return written


def parse(path):
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("path", [path for path in OTHERS if TRACKING not in path.parents], ids=relative)
def test_nothing_outside_tracking_has_a_client(path):
    assert not clients(parse(path))


INSIDE = [path for path in OTHERS if TRACKING in path.parents]


@pytest.mark.parametrize(
    "path", [path for path in INSIDE if OUTAGE not in path.parents and path != DATABASE], ids=relative
)
def test_nothing_inside_tracking_but_runs_writes_or_takes_the_client_of_a_run(path):
    tree = parse(path)
    assert not writes(tree)
    assert "_client" not in clients(tree)


def test_to_a_database_only_what_concerns_models_writes_beside_mlflow_itself():
    functions = [node for node in ast.walk(parse(DATABASE)) if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions if writes(function)} == {"log_model", "register_model"}


def test_to_a_server_only_operations_write_which_can_be_repeated():
    for path in OUTAGE.glob("*.py"):
        tree = parse(path)
        if path.name == "operations.py":
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            writing = {function.name for function in functions if writes(function)}
            assert writing <= {function.__name__ for function in PERFORMERS.values()}
        else:  # the client's own methods, which make operations
            calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            held = [call.value for call in calls if isinstance(call, ast.Attribute) and call.attr in WRITERS]
            assert all(isinstance(holder, ast.Name) and holder.id == "self" for holder in held), path.name


def test_in_runs_only_the_methods_for_sending_write():
    tree = parse(RUNS)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    writing = {node.name for node in functions if writes(node)}
    assert {name for name in writing if not name.startswith("_send_")} == {"create", "create_experiment"}
    assert writing >= {"_send_batch", "_send_file", "_send_image", "_send_model"}


@pytest.mark.parametrize(
    "line",
    [
        "run.client.log_artifact(run.run_id, path)",
        "MlflowClient().set_terminated(run_id)",
        "mlflow.log_metric('loss', 1.0)",
        "mlflow.start_run()",
        "Model.log(None, flavor)",
        "store = connection.create_run('0')",
    ],
)
def test_what_writes_is_recognized(line):
    assert writes(ast.parse(line))


@pytest.mark.parametrize("line", ["run.log_metrics({}, 1)", "mlflow.get_tracking_uri()", "math.log(2.0)"])
def test_what_does_not_write_is_not(line):
    assert not writes(ast.parse(line))
