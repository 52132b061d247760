"""The examples run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def run_example(name, folder, **variables):
    """Run an example in ``folder`` and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE.with_name(name))], capture_output=True, text=True, timeout=300, check=False, cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(EXAMPLE.parents[1]), *sys.path]), **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_saved_predictions_are_measured(tmp_path):
    printed = run_example("measure_predictions.py", tmp_path)
    assert printed.startswith("text is ahead: mean gap +0.")
    assert "post_0007" in printed
    assert len((tmp_path / "gaps.csv").read_text("utf-8").splitlines()) == 2001
    assert (tmp_path / "gaps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["lightning", pytest.param("transformers", marks=pytest.mark.verify)])
def test_the_callback_of_another_library_logs_its_refits(library, store):
    pytest.importorskip(library, reason=f"{library} is not installed: pip install '.[{library}]'")
    example = {"lightning": "lightning_callback.py", "transformers": "trainer_callback.py"}[library]
    printed = run_example(example, store, MLFLOW_TRACKING_URI=f"sqlite:///{store}/mlflow.db")
    assert "over 800 samples, mean abs(gap)" in printed
    (folder,) = store.rglob("refits")
    assert sorted(path.name for path in folder.iterdir()) == ["epoch_0002", "epoch_0004", "epoch_0006"]


@pytest.mark.verify
def test_own_method_keeps_to_the_public_suite():
    path = EXAMPLE.with_name("test_own_method.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(path), "-p", "no:cacheprovider"],
        capture_output=True, text=True, timeout=120, check=False, cwd=EXAMPLE.parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    suite = [name for name in vars(MethodConformance) if name.startswith("test_")]
    assert f"{len(suite)} passed" in done.stdout
