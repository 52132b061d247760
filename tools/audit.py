"""Look the installed packages up in a database of known vulnerabilities (`pip-audit`): part of `make check`.

    python tools/audit.py

Exit status 1: a package is known to be vulnerable, or pip-audit itself is broken. Where the database cannot be reached, or knows
none of the packages (a mirror of the index without it), one line says that nothing was checked, and the exit status is 0: without a
network, `make check` checks the rest.
"""

from __future__ import annotations

import json
import subprocess
import sys

COMMAND = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"]
SECONDS = 300
"""After this time the database counts as out of reach."""
UNREACHABLE = (
    "ConnectionError",
    "ProxyError",
    "ConnectTimeout",
    "ReadTimeout",
    "SSLError",
    "MaxRetryError",
    "HTTPError",
)
"""Exceptions of `requests` in the last line of pip-audit's complaint where the network is the reason."""


def verdict(status: int, report: str, complaint: str) -> tuple[int, list[str]]:
    """Decide what the answer of pip-audit means.

    Args:
        status: its exit status.
        report: its JSON.
        complaint: what it wrote to standard error.

    Returns:
        Exit status, and the lines to print.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaint.strip().splitlines() or ["no answer"])[-1]
        if status != 0 and any(name in last for name in UNREACHABLE):
            return 0, [f"AUDIT SKIPPED: the database of vulnerabilities cannot be reached ({last[:160]})"]
        return 1, [f"pip-audit failed with exit status {status}: {last[:300]}"]
    vulnerable = [item for item in packages if item.get("vulns")]
    unknown = [item["name"] for item in packages if "skip_reason" in item]
    if vulnerable:
        return 1, [f"VULNERABLE: {_described(item)}" for item in vulnerable]
    if status != 0:
        return 1, [f"pip-audit failed with exit status {status}"]
    if len(unknown) == len(packages):
        return 0, [
            f"AUDIT SKIPPED: the database of vulnerabilities knows none of the {len(packages)} installed packages"
        ]
    left = f"; not known to the database: {', '.join(unknown)}" if unknown else ""
    return 0, [f"{len(packages) - len(unknown)} packages without known vulnerabilities{left}"]


def _described(item: dict) -> str:
    found = [
        f"{one['id']} ({'repaired in ' + ', '.join(one['fix_versions']) if one.get('fix_versions') else 'no repair yet'})"
        for one in item["vulns"]
    ]
    return f"{item['name']} {item['version']}: {'; '.join(found)}"


def main() -> int:
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"AUDIT SKIPPED: the database of vulnerabilities has not answered in {SECONDS} s", file=sys.stderr)
        return 0
    status, lines = verdict(done.returncode, done.stdout, done.stderr)
    print("\n".join(lines), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
