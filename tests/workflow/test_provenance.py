"""What a run says of itself is what it was trained with: parameters, warm-up, method, code, machine."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from mm_balance.config import resolve
from mm_balance.errors import UserError
from mm_balance.methods import find_method
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import find_warmup, open_run
from mm_balance.tracking.refits import read_gap_table
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow import provenance
from mm_balance.workflow.plans import adaptive_plan, train_plan, warmup_plan
from mm_balance.workflow.runs import run_stage
from mm_balance.workflow.stage import saved_state, train_stage
from tests.helpers.commands import QUICK, config_of, do, newest, runs
from tests.helpers.manifests import Folder
from tests.helpers.outside import write_module
from tests.helpers.stages import never

pytestmark = pytest.mark.usefixtures("signals", "store")


def test_posteriors_stay_with_their_samples_when_a_manifest_is_written_in_another_order(tmp_path):
    folder = Folder(tmp_path)
    folder.fill(("ja", "nein"), (("train", 12), ("val", 3), ("test", 3)))
    manifest = str(folder.write())
    words = (
        "encoder=resnet_narrow image_size=32 clip_seconds=0.5 batch_size=8 learning_rate=0.02 refit_every=1 device=cpu"
    )
    assert do("warmup", f"{words.replace('refit_every=1 ', '')} warmup_epochs=1", dataset=manifest) == 0
    before = newest(stage="warmup").info.run_id
    folder.rows.reverse()
    folder.write()
    assert do("adaptive", f"{words} adaptive_epochs=1 warmup_run={before}", dataset=manifest) == 0
    adaptive = newest(stage="adaptive").info.run_id
    old, new = (read_gap_table(TrackedRun(run), 1).set_index("sample") for run in (before, adaptive))
    truth = {row["sample"]: row["label"] for row in folder.rows if row["split"] == "train"}
    assert {sample: ("ja", "nein")[label] for sample, label in new["label"].items()} == truth
    pd.testing.assert_series_equal(old["gap"].sort_index(), new["gap"].sort_index())


def test_a_warm_up_of_other_samples_is_refused():
    """Same digest and length, another order: as data from Python might be."""
    config = resolve({"preset": "quick", "device": "cpu", "batch_size": 8})
    data = tiny_data()
    warmup = open_run("warm-up")
    run_stage(warmup_plan(config), data, warmup, never)
    train = data.splits["train"]
    other = replace(data, splits={**data.splits, "train": train.subset(torch.arange(len(train)).flip(0))})
    with pytest.raises(UserError, match=f"the warm-up run {warmup.run_id} belongs to other training samples"):
        train_stage(adaptive_plan(config), other, open_run("stage 2"), never, warmup=warmup)
    assert provenance.fingerprint(config, other) != provenance.fingerprint(config, data)


def test_the_fingerprint_is_of_code_threads_and_kind_of_device(monkeypatch):
    config, data = resolve({"device": "cpu"}), tiny_data()
    found = {provenance.fingerprint(config, data)}
    torch.set_num_threads(2)
    found.add(provenance.fingerprint(config, data))
    monkeypatch.setattr(provenance, "code_digest", lambda: "other code")
    found.add(provenance.fingerprint(config, data))
    monkeypatch.setattr(provenance, "resolve_device", lambda device: torch.device("cuda"))
    found.add(provenance.fingerprint(config, data))
    torch.set_num_threads(1)
    assert provenance.fingerprint(config, data) in found  # threads of a CPU say nothing of a GPU
    assert len(found) == 4


def test_the_code_is_that_which_trains(tmp_path, monkeypatch):
    package = tmp_path / "mm_balance"
    for name in provenance.TRAINING_SOURCES:
        path = package / name if name.endswith(".py") else package / name / "some.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a = 1\n")
    (package / "figures").mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(provenance.mm_balance, "__file__", str(package / "__init__.py"))
    fresh = provenance.code_digest.__wrapped__
    first = fresh()
    (package / "figures" / "plot.py").write_text("b = 1\n")
    (package / "methods" / "some.py").write_bytes(b"a = 1\r\n")
    assert fresh() == first
    (package / "methods" / "some.py").write_text("a = 2\n")
    assert fresh() != first


def test_the_code_of_a_method_outside_the_package_counts_too(import_folder):
    def code(module):
        method = find_method(f"{module}:Halved")
        provenance._outside_digest.cache_clear()
        return provenance.training_code(method, resolve({}))

    alone = write_module(import_folder, "alone_methods")
    write_module(import_folder, "of_package.methods")
    first, second = code("alone_methods"), code("of_package.methods")
    assert len({first, second, provenance.code_digest()}) == 3
    write_module(import_folder, "other_methods", "a = 1")
    alone.write_bytes(alone.read_bytes().replace(b"\n", b"\r\n"))
    assert code("alone_methods") == first
    write_module(import_folder, "of_package.helpers", "a = 1")
    alone.write_text(alone.read_text() + "\n")
    assert code("alone_methods") != first
    assert code("of_package.methods") != second
    assert provenance.training_code(find_method("ogm"), resolve({})) == provenance.code_digest()


def test_an_edited_method_is_another_training_but_begins_from_the_same_warm_up(import_folder, monkeypatch):
    write_module(import_folder, "edited_methods")
    config, data = resolve({"method": "edited_methods:Halved", "device": "cpu"}), tiny_data()

    def settings():
        return provenance.expected_settings(train_plan(config), data, after_warmup=True)

    warmup, first = provenance.fingerprint(config, data), settings()
    assert settings() == first
    monkeypatch.setattr(provenance, "_outside_digest", lambda source: "edited")
    assert settings() != first
    assert provenance.fingerprint(config, data) == warmup


def test_a_run_after_a_named_warm_up_says_what_that_warm_up_was():
    assert do("warmup", f"{QUICK} warmup_epochs=3 warmup_unimodal_weight=0.5 seed=7 momentum=0.8") == 0
    warmup = newest(stage="warmup")
    assert do("adaptive", f"{QUICK} adaptive_epochs=1 warmup_run={warmup.info.run_id}") == 0
    run = newest(stage="adaptive")
    assert run.data.tags["mm.fingerprint"] == warmup.data.tags["mm.fingerprint"]
    assert run.data.tags["mm.warmup_run"] == run.data.params["config/warmup_run"] == warmup.info.run_id
    assert run.data.tags["config/warmup_epochs"] == "3"
    assert run.data.params["config/warmup_unimodal_weight"] == "0.5"
    assert (run.data.params["config/seed"], run.data.params["warmup/seed"]) == ("0", "7")
    assert (run.data.params["config/momentum"], run.data.params["warmup/momentum"]) == ("0.9", "0.8")
    assert "warmup/learning_rate" not in run.data.params  # the same
    config = config_of(run)
    assert (config["warmup_epochs"], config["warmup_unimodal_weight"]) == (3, 0.5)
    assert config["warmup_run"] == warmup.info.run_id


def test_a_kept_optimizer_state_trains_with_the_configured_settings():
    assert do("warmup", QUICK) == 0
    words = f"{QUICK} adaptive_epochs=1 optimizer_state=keep momentum=0.5 weight_decay=0.01"
    assert do("adaptive", f"{words} warmup_run={newest(stage='warmup').info.run_id}") == 0
    state = saved_state(TrackedRun(newest(stage="adaptive").info.run_id))
    (group,) = state["stepper"]["optimizer"]["param_groups"]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.01)


@pytest.mark.verify
def test_the_method_says_what_it_trained_with():
    """`train method=gap_mixture` by its options, `adaptive` by parameters: one road to tags, headline and parameters."""
    assert do("warmup", QUICK) == 0
    assert do("train", f"{QUICK} method=gap_mixture epochs=1 method_options=loss_form=prose,gap_weight=0.25") == 0
    assert do("adaptive", f"{QUICK} adaptive_epochs=1 loss_form=prose gap_weight=0.25") == 0
    assert do("train", f"{QUICK} method=ogm epochs=1") == 0
    options, parameters, ogm = (
        newest(stage="train", method="gap_mixture"),
        newest(stage="adaptive"),
        newest(method="ogm"),
    )
    assert options.data.tags["mm.loss_form"] == parameters.data.tags["mm.loss_form"] == "prose"
    assert ogm.data.tags["mm.loss_form"] == "none"
    for run in (options, parameters):
        assert run.data.tags["mlflow.note.content"].startswith("**Adaptive loss, form `prose`**")
    assert options.data.params["config/method"] == "gap_mixture"
    assert options.data.params["method/loss_form"] == "prose"
    assert options.data.params["method/gap_weight"] == parameters.data.params["config/gap_weight"] == "0.25"
    assert ogm.data.params["config/method"] == "ogm"
    # Only what the entry point has:
    assert "config/method" not in parameters.data.params
    assert not {"config/gap_weight", "config/anneal", "config/run_id", "config/source"} & set(options.data.params)
    assert "method" not in config_of(parameters)
    assert "gap_weight" not in config_of(options)
    a, b = (saved_state(TrackedRun(run.info.run_id))["model"] for run in (options, parameters))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_method_that_keeps_samples_back_does_not_follow_a_warm_up_that_has_seen_them(capsys):
    assert do("warmup", QUICK) == 0
    warmup = newest(stage="warmup").info.run_id
    for method in ("g_blending", "diagnose_relearn"):
        assert do("train", f"{QUICK} method={method} epochs=1 warmup_run={warmup}") == 1
        told = capsys.readouterr().err
        assert f"method={method} diagnoses on 10% of the training samples, which it holds out" in told
        assert f"{warmup} has trained on them: train the method from scratch with -e train, without warmup_run" in told
    assert not runs(stage="train")


@pytest.mark.verify
def test_branches_that_see_each_other_are_not_called_modalities(capsys):
    assert do("train", f"{QUICK} method=greedy epochs=1 refit_every=1") == 0
    assert "audio branch" in capsys.readouterr().out
    run = newest(stage="train")
    assert run.data.tags["mm.unimodal"] == "branches"
    assert "branch that sees the others" in run.data.tags["mlflow.note.content"]
    assert do("evaluate", f"run_id={run.info.run_id} split=val device=cpu") == 0
    assert "audio branch" in capsys.readouterr().out
    assert newest(stage="evaluate").data.tags["mm.unimodal"] == "branches"
    assert do("train", f"{QUICK} method=concat epochs=1 refit_every=1") == 0
    assert "audio branch" not in capsys.readouterr().out
    assert "mm.unimodal" not in newest(stage="train").data.tags


def test_nested_runs_do_not_repeat_their_parent():
    assert do("main", f"{QUICK} warmup_epochs=1 adaptive_epochs=1 loss_form=prose") == 0
    parent = newest(stage="main")
    assert parent.data.params["config/loss_form"] == "prose"
    assert parent.data.tags["mm.loss_form"] == "prose"
    assert parent.data.params["config/method"] == "gap_mixture"
    for stage in ("warmup", "adaptive"):
        nested = newest(stage=stage)
        told = {name for name in {**nested.data.params, **nested.data.tags} if name.startswith(("config/", "method/"))}
        assert told <= {"config/warmup_run"}, stage
        assert config_of(nested)["seed"] == 0  # the file has all that applies
    assert config_of(newest(stage="adaptive"))["loss_form"] == "prose"
    assert "loss_form" not in config_of(newest(stage="warmup"))


def test_a_warm_up_of_the_same_experiment_comes_first(monkeypatch):
    def make(experiment):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", experiment)
        run = open_run("warm-up", tags={"mm.stage": "warmup", "mm.fingerprint": "same"})
        run.terminate("FINISHED")
        return run.run_id

    first = make("mine")
    second = make("others")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert find_warmup("same").run_id == first
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "nobody's yet")
    assert find_warmup("same").run_id == second  # the newest of all
    assert MlflowClient().get_experiment_by_name("nobody's yet") is None  # looking makes nothing


def test_equal_settings_are_told_from_others():
    """`mm.settings`: what campaigns go by when they use a run again."""

    def settings(words=""):
        assert do("train", f"{QUICK} epochs=1 refit_every=1 {words}") == 0
        return newest(stage="train").data.tags["mm.settings"]

    first = settings("method=concat_unimodal method_options=unimodal_weight=1.0")
    assert settings("method=concat_unimodal") == first  # the default, written out
    assert settings("method=concat_unimodal method_options=unimodal_weight=4.0") != first
    assert settings("method=concat_unimodal seed=1") != first
    assert settings("method=concat_unimodal learning_rate=0.03") != first


def test_evaluating_on_validation_after_the_whole_recipe_gives_the_logged_numbers():
    assert do("main", f"{QUICK} warmup_epochs=1 adaptive_epochs=1") == 0
    run = newest(stage="main")
    assert do("evaluate", f"run_id={run.info.run_id} split=val device=cpu") == 0
    found = newest(evaluated_run=run.info.run_id, stage="evaluate").data.metrics
    assert found == {name: run.data.metrics[name] for name in found}


def test_refits_and_files_say_the_same(tmp_path):
    """`config.json` reads back as the configuration of the run, with parameters of its entry point alone."""
    assert do("warmup", f"{QUICK} warmup_epochs=1") == 0
    run = newest(stage="warmup")
    path = MlflowClient().download_artifacts(run.info.run_id, "config.json", str(tmp_path))
    saved = json.loads(Path(path).read_text())
    state = saved_state(TrackedRun(run.info.run_id))
    assert state["record"]["config"] == saved
    assert "adaptive_epochs" not in saved


def test_the_code_digest_covers_every_module_that_builds_a_stage():
    """A plan decides method, length and learning rate of a stage: editing it must not pass for the same training."""
    root = Path(provenance.__file__).parents[1]
    covered = {path.relative_to(root).as_posix() for path in provenance._training_sources(root)}
    builders = {module.__globals__["__name__"] for module in (train_stage, train_plan, warmup_plan, adaptive_plan)}
    assert {f"{name.removeprefix('mm_balance.').replace('.', '/')}.py" for name in builders} <= covered
