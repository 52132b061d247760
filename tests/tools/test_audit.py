"""What `make check` makes of pip-audit's answers: vulnerable packages fail it, a missing database does not, a broken tool does."""

import json
import sys

import pytest

from tools import audit

SAFE = {"name": "numpy", "version": "2.0", "vulns": []}
OWN = {"name": "mm-balance", "skip_reason": "Dependency not found on PyPI"}
OPEN = {
    "name": "torch",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.6"]}, {"id": "GHSA-2", "fix_versions": []}],
}


def answer(*packages):
    return json.dumps({"dependencies": list(packages), "fixes": []})


def test_a_vulnerable_package_fails_and_is_named_with_its_repair():
    status, lines = audit.verdict(1, answer(SAFE, OWN, OPEN), "Found 2 known vulnerabilities in 1 package")
    assert status == 1
    assert lines == ["VULNERABLE: torch 1.0: PYSEC-1 (repaired in 2.6); GHSA-2 (no repair yet)"]


def test_it_fails_whatever_the_exit_status_says():
    assert audit.verdict(0, answer(OPEN), "")[0] == 1


def test_without_vulnerable_packages_it_says_what_was_not_looked_up():
    assert audit.verdict(0, answer(SAFE, OWN), "") == (
        0,
        ["1 packages without known vulnerabilities; not known to the database: mm-balance"],
    )


@pytest.mark.parametrize(
    ("status", "report", "complaint"),
    [
        (1, "", "Traceback ...\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host='pypi.org', port=443): ..."),
        (1, "", "requests.exceptions.ConnectionError: Failed to resolve"),
        (1, "", "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='pypi.org', port=443): Read timed out."),
        (0, answer(OWN, {**OWN, "name": "numpy"}), "No known vulnerabilities found"),
    ],
)
def test_a_database_out_of_reach_is_said_in_one_line_and_fails_nothing(status, report, complaint):
    found, lines = audit.verdict(status, report, complaint)
    assert found == 0
    assert len(lines) == 1
    assert lines[0].startswith("AUDIT SKIPPED: the database")


@pytest.mark.parametrize(
    ("status", "report", "complaint"),
    [
        (1, "", "No module named pip_audit"),
        (2, "", "usage: pip-audit\npip-audit: error: unrecognized arguments"),
        (0, "", ""),
        (0, "[]", ""),
        (1, "", "KeyError: 'ConnectionError of an earlier line is no reason'\nKeyError: 'x'"),
        (3, answer(SAFE), "something else"),
    ],
)
def test_a_broken_tool_fails(status, report, complaint):
    found, lines = audit.verdict(status, report, complaint)
    assert found == 1
    assert lines[0].startswith("pip-audit failed")


def test_a_database_that_never_answers_is_skipped(monkeypatch, capsys):
    monkeypatch.setattr(audit, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(audit, "SECONDS", 0.2)
    assert audit.main() == 0
    assert "AUDIT SKIPPED" in capsys.readouterr().err


def test_the_exit_status_is_that_of_the_verdict(monkeypatch, capsys):
    said = f"print({answer(OPEN)!r}); raise SystemExit(1)"
    monkeypatch.setattr(audit, "COMMAND", [sys.executable, "-c", said])
    assert audit.main() == 1
    assert "PYSEC-1" in capsys.readouterr().err
