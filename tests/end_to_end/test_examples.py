"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mm_balance.testing import MethodConformance

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_loop.py"


def test_own_loop_closes_the_gap():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # two threads each on a busy machine only wait for one another
    )
    gaps = [float(value) for value in re.findall(r"mean gap ([+-][\d.]+)", done.stdout)]
    assert len(gaps) == 3
    assert gaps[0] > 0.1 > abs(gaps[-1])


def test_own_loop_is_short_and_plain():
    text = EXAMPLE.read_text("utf-8")
    assert len(text.splitlines()) <= 60
    assert "mlflow" not in text.split('"""')[2]
    assert "optuna" not in text


def test_own_method_keeps_to_the_public_suite():
    path = EXAMPLE.with_name("test_own_method.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(path), "-p", "no:cacheprovider"],
        capture_output=True, text=True, timeout=120, check=False, cwd=EXAMPLE.parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    suite = [name for name in vars(MethodConformance) if name.startswith("test_")]
    assert f"{len(suite)} passed" in done.stdout
