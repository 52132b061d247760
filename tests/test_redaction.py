"""Passwords and tokens in texts that are printed or logged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_balance.errors import UserError, reason
from mm_balance.redaction import redact, without_credentials
from mm_balance.tracking.experiment_page import view_link
from mm_balance.tracking.lookup import open_run, run_link, tracking_uri

SECRET = "SECRETPW"
HARMLESS = [
    "/a/b.journal",
    "sqlite:////home/ann/mlflow.db",
    "http://127.0.0.1:5000/#/experiments/1/runs/0123?workflowType=machine_learning",
    "postgresql://ann@host/db",
    "gap_weight=0.5 anneal=cosine",
    "write to ann@example.org: see https://example.org/a:b",
    "registered: models:/name/1 (champion)",
]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:SECRETPW@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me:SECRETPW@SECRETPW@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:a/b?c#SECRETPW@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:SECRETPW@host/db", "postgresql://:***@host/db"),
        ("postgresql://h/db?user=u&password=SECRETPW&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("https://SECRETPW@host/x", "https://***@host/x"),
        ("https://host/x?access_token=SECRETPW", "https://host/x?access_token=***"),
        ("dbname=x password='SECRETPW with blanks' port=1", "dbname=x password=*** port=1"),
        (
            "API request to http://bob:SECRETPW@127.0.0.1:1/api/2.0/mlflow failed (http://bob:SECRETPW@h)",
            "API request to http://bob:***@127.0.0.1:1/api/2.0/mlflow failed (http://bob:***@h)",
        ),
        (
            '["--storage", "postgresql://me:SECRETPW@host/db", "a@b"]',
            '["--storage", "postgresql://me:***@host/db", "a@b"]',
        ),
    ],
)
def test_what_is_secret_is_hidden(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_not_secret_is_shown(text):
    assert redact(text) == text


@given(st.text(st.characters(codec="ascii", exclude_characters="\"' \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"), min_size=1))
def test_no_password_shows_whatever_its_characters(password):
    shown = redact(f"cannot open postgresql://me:<{password}>@host/db: it does not answer")
    assert shown == "cannot open postgresql://me:***@host/db: it does not answer"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://bob:SECRETPW@host:5000/mlflow/", "http://host:5000/mlflow/"),
        ("https://host?token=SECRETPW", "https://host"),
        ("http://host:5000", "http://host:5000"),
        ("mlruns", "mlruns"),
    ],
)
def test_links_have_no_credentials(url, shown):
    assert without_credentials(url) == shown


def test_a_reason_is_cut_after_its_password_is_hidden():
    error = UserError("x" * 460 + f" http://bob:{'y' * 30}{SECRET}{'z' * 50}@host/db")
    assert reason(error) == "x" * 460 + " http://bob:***@host/db"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("two\nlines"), with_type=True) == "ValueError: two lines"


def test_nothing_that_is_logged_on_a_run_has_a_password(store):
    """Whatever a command says of itself, on whatever way."""
    url = f"postgresql://me:{SECRET}@host/db"
    run = open_run("some run", tags={"mm.seed": "0"})
    run.set_tags({"mm.error": f"no answer from {url}"})
    run.log_params({"study/storage": url})
    run.describe(f"[study]({url})")
    run.log_json({"command": ["--storage", url]}, "environment.json")
    run.log_plain_text(f"Traceback: {url}", "error.txt")
    data = run.read().data
    assert data.tags["mm.error"] == "no answer from postgresql://me:***@host/db"
    assert data.params["study/storage"] == "postgresql://me:***@host/db"
    assert run.read_json("environment.json") == {"command": ["--storage", "postgresql://me:***@host/db"]}
    assert not [path for path in store.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_links_and_addresses_that_are_printed_have_no_password(store, monkeypatch):
    run = open_run("some run")
    record = run.read()
    monkeypatch.setattr(run, "read", lambda: record)
    monkeypatch.setattr("mlflow.get_tracking_uri", lambda: f"http://bob:{SECRET}@host:5000")
    for link in (run_link(run), view_link(run)):
        assert link.startswith("http://host:5000/#/experiments/")
    assert tracking_uri() == "http://bob:***@host:5000"


ENDS = """
import sys
from mm_balance.commands.guard import run_guarded
from mm_balance.errors import UserError

def body(stop):
    raise {error}("no answer from http://bob:SECRETPW@host:5000")

sys.exit(run_guarded(body))
"""


@pytest.mark.parametrize(
    ("error", "shown"), [("UserError", "mm-balance: error: no answer"), ("RuntimeError", "Traceback")]
)
def test_neither_an_error_nor_a_traceback_prints_one(error, shown):
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", ENDS.format(error=error)], cwd=root, env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert shown in ended.stderr
    assert "no answer from http://bob:***@host:5000" in ended.stderr
    # The line of source that the traceback shows is redacted, too.
    assert SECRET not in ended.stderr + ended.stdout
