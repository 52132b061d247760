"""`config.json` of a run that has been changed since, or is damaged: an error, and not another training or evaluation."""

import json
import math
from pathlib import Path
from urllib.parse import urlparse

import pytest

from mm_balance.config import resolve
from mm_balance.errors import UserError
from mm_balance.tracking.lookup import open_run


@pytest.fixture
def run(store):
    run = open_run("trained")
    run.log_config(resolve({"learning_rate": 0.1 + 0.2, "seed": 7}).values())
    return run


def config_file(run):
    return Path(urlparse(run.read().info.artifact_uri).path) / "config.json"


def changed(run, **values):
    file = config_file(run)
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_was_logged_is_what_is_read(run):
    assert run.saved_config()["learning_rate"] == 0.1 + 0.2


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.5), ("seed", 8), ("encoder", "resnet18"), ("learning_rate", math.nan)]
)
def test_a_value_that_differs_from_the_immutable_parameter_is_named(run, name, value):
    changed(run, **{name: value})
    with pytest.raises(UserError, match=rf"config\.json of run {run.run_id} says {name}=.*changed"):
        run.saved_config()


def test_what_may_change_on_a_resumed_run_may_differ(run):
    changed(run, warmup_epochs=50)
    assert run.saved_config()["warmup_epochs"] == 50


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"seed": ' + b"[" * 100_000])
def test_a_damaged_file_is_named(run, content):
    config_file(run).write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        run.saved_config()
