"""Methods as a user meets them: `mlflow run -e train`, after a warm-up, evaluated with a probe, killed and continued."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from test_end_to_end import QUICK, all_runs, by_stage, check_model, client, mlflow_run, python_run, store  # noqa: F401

pytestmark = pytest.mark.slow
SHORT = ["--preset", "quick", "--device", "cpu"]


def newest(env, stage):
    found = [run for run in all_runs(env) if run.data.tags.get("mm.stage") == stage]
    return max(found, key=lambda run: run.info.start_time)


def checkpoint(env, run, folder):
    folder.mkdir(parents=True)
    return torch.load(
        client(env).download_artifacts(run.info.run_id, "checkpoints/last", str(folder)), weights_only=True
    )


def test_a_method_with_options_and_its_measures(store, tmp_path):  # noqa: F811
    done = mlflow_run(
        store, *QUICK, "-P", "method=mla", "-P", "method_options=projection=rls,gate=fixed", entry_point="train",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = by_stage(store)["train"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mm.method"] == "mla"
    assert run.data.params["method/projection"] == "rls"
    assert run.data.params["method/gate"] == "fixed"
    metrics = run.data.metrics
    assert (metrics["cost/forward_passes"], metrics["cost/backward_passes"], metrics["cost/relative"]) == (1, 1, 1)
    assert metrics["cost/step_milliseconds"] > 0
    assert metrics["val/imbalance_degree"] == pytest.approx(
        abs(metrics["val/shapley_audio"] - metrics["val/shapley_visual"])
    )
    assert not [name for name in metrics if name.startswith("test/")]
    check_model(store, run, tmp_path)
    probed = python_run(store, "evaluate", "--run_id", run.info.run_id, "--probe", "true")
    assert probed.returncode == 0, probed.stderr[-2000:]
    tested = newest(store, "evaluate").data.metrics
    assert tested["test/probe_gap"] == pytest.approx(
        tested["test/probe_accuracy_audio"] - tested["test/probe_accuracy_visual"]
    )
    assert {"test/shapley_audio", "test/shapley_visual", "test/imbalance_degree"} <= set(tested)


def test_gap_mixture_after_a_warm_up_is_adaptive_to_the_last_bit_and_others_can_follow_it_too(store, tmp_path):  # noqa: F811
    nothing = python_run(store, "train", *SHORT, "--method", "gap_mixture")
    assert nothing.returncode == 1
    assert "train one with: mlflow run . --env-manager local -e warmup" in nothing.stderr
    for entry_point, words in (
        ("warmup", ()), ("adaptive", ()), ("train", ("--method", "gap_mixture", "--epochs", "2")),
    ):  # fmt: skip
        done = python_run(store, entry_point, *SHORT, *words)
        assert done.returncode == 0, done.stderr[-2000:]
    runs = by_stage(store)
    one, other = (checkpoint(store, runs[stage], tmp_path / stage)["model"] for stage in ("adaptive", "train"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    warmup = runs["warmup"].info.run_id
    done = python_run(store, "train", *SHORT, "--method", "mmpareto", "--epochs", "1", "--warmup_run", warmup)
    assert done.returncode == 0, done.stderr[-2000:]
    run = newest(store, "train")
    assert run.data.tags["mm.warmup_run"] == warmup
    assert "fusion.own.audio.weight" in run.data.tags["mm.fresh_weights"]


def test_a_method_that_keeps_samples_back_and_trains_copies(store):  # noqa: F811
    done = python_run(
        store, "train", *SHORT, "--method", "g_blending", "--method_options", "horizon=1", "--epochs", "1"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    run = newest(store, "train")
    assert run.data.metrics["cost/relative"] > 2
    kept = [name for name in run.data.metrics if name.startswith("method/weight_")]
    assert sum(run.data.metrics[name] for name in kept) == pytest.approx(1)


def test_help_lists_a_methods_options():
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.train", "--method", "opm_ogm", "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "drop_base=0.5: q_base" in done.stdout
    assert "noise=true: OGM-GE's noise" in done.stdout
