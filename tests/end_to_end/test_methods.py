"""Methods as a user meets them: `train`, after a warm-up, evaluated with a probe."""

import pytest
import torch

from tests.helpers.commands import QUICK, by_stage, call, do, fetch, newest
from tests.helpers.models import check_model, check_model_elsewhere

pytestmark = pytest.mark.slow


def checkpoint(run):
    return torch.load(fetch(run, "checkpoints/last"), weights_only=True)


@pytest.mark.verify
def test_a_method_with_options_and_its_measures(store, launch, request):
    done = launch("train", f"{QUICK} method=mla method_options=projection=rls,gate=fixed")
    assert done.status == 0, done.errors[-3000:]
    run = by_stage()["train"]
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
    if "mlflow run" in request.node.name:
        check_model_elsewhere(store, run)
    else:
        check_model(run)
    assert do("evaluate", f"run_id={run.info.run_id} probe=true") == 0
    tested = newest(stage="evaluate").data.metrics
    assert tested["test/probe_gap"] == pytest.approx(
        tested["test/probe_accuracy_audio"] - tested["test/probe_accuracy_visual"]
    )
    assert {"test/shapley_audio", "test/shapley_visual", "test/imbalance_degree"} <= set(tested)


def test_gap_mixture_after_a_warm_up_is_adaptive_to_the_last_bit_and_others_can_follow_it_too(store, capsys):
    assert do("train", f"{QUICK} method=gap_mixture") == 1
    assert "train one with: mlflow run . --env-manager local -e warmup" in capsys.readouterr().err
    assert do("warmup", QUICK) == 0
    assert do("adaptive", QUICK) == 0
    assert do("train", f"{QUICK} method=gap_mixture epochs=2") == 0
    found = by_stage()
    one, other = (checkpoint(found[stage])["model"] for stage in ("adaptive", "train"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    warmup = found["warmup"].info.run_id
    assert do("train", f"{QUICK} method=mmpareto epochs=1 warmup_run={warmup}") == 0
    run = newest(stage="train")
    assert run.data.tags["mm.warmup_run"] == warmup
    assert "fusion.own.audio.weight" in run.data.tags["mm.fresh_weights"]


def test_a_method_that_keeps_samples_back_and_trains_copies(store):
    assert do("train", f"{QUICK} method=g_blending method_options=horizon=1 epochs=1") == 0
    run = newest(stage="train")
    assert run.data.metrics["cost/relative"] > 2
    kept = [name for name in run.data.metrics if name.startswith("method/weight_")]
    assert sum(run.data.metrics[name] for name in kept) == pytest.approx(1)


def test_help_lists_a_methods_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        call("train", ["--method", "opm_ogm", "--help"])
    said = capsys.readouterr().out
    assert "drop_base=0.5: q_base" in said
    assert "noise=true: add OGM-GE's noise" in said
