"""`reproduce` from the command line to the runs, with short training in this process."""

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from mm_balance.config import ReproductionConfig, options
from mm_balance.errors import Interrupted, UserError
from mm_balance.reproduction import command, pool, training
from mm_balance.reproduction.plan import base_settings, jobs
from mm_balance.reproduction.tables import CONTROL, Row, Table
from mm_balance.workflow import runs as stages
from tests.helpers.commands import adopt, call, do, runs, spelled, steps

pytestmark = pytest.mark.slow
SHORT = {
    "warmup_epochs": 1,
    "adaptive_epochs": 1,
    "epochs": 2,
    "refit_every": 1,
    "train_fraction": 1.0,
    "batch_size": 8,
}
GOOD = (Row("full", "gap_mixture"), Row(CONTROL, CONTROL), Row("joint", "concat", after_warmup=False))
IMPOSSIBLE = Row("impossible", "greedy", {"fusion": "film"}, after_warmup=False)
DIVERGING = Row("diverging", "concat", {"learning_rate": 1e12}, after_warmup=False)
WORDS = "preset=quick seeds=1 workers=1 device=cpu"
MACHINE = {"data_dir": "auto", "device": "cpu"}


def short_base(*words, **more):
    return {**base_settings(*words, **more), **SHORT}


@pytest.fixture
def rows(store, monkeypatch, tiny_data):
    """Have the command make tables of these rows, in a thread and on tiny data; a second table has the first row too."""
    for module in (command, training):
        monkeypatch.setattr(module, "read_data", lambda config, stop: tiny_data)
    monkeypatch.setattr(training, "_kept", {})
    # Figures and model take seconds of each run; without them, the test takes the network from the checkpoint.
    monkeypatch.setattr(stages, "publish", lambda *words: {})
    monkeypatch.setattr(pool, "new_executor", lambda slot, stop: ThreadPoolExecutor(1))
    monkeypatch.setattr(command, "base_settings", short_base)

    def make(*members):
        tables = (Table("ablation", "Table 2", tuple(members)), Table("methods", "Table 1", tuple(members[:1])))
        monkeypatch.setattr(command, "tables_of", lambda data: tables)
        return tables

    return make


def trained():
    """The runs of rows, oldest first."""
    return [run for run in runs() if "mm.job" in run.data.tags and run.data.tags.get("mm.stage") != "warmup"]


def test_what_fails_is_a_row_that_says_so_and_the_others_are_there(rows, capsys):
    tables = rows(*GOOD, IMPOSSIBLE, DIVERGING)
    assert do("reproduce", WORDS) == 1
    said = capsys.readouterr()
    assert "3 of 5 runs are there" in said.out
    assert "failed: ablation: impossible, seed 0: method greedy brings its own head" in said.out
    assert "diverged: ablation: diverging, seed 0: the training loss is no longer finite" in said.out
    assert said.err.splitlines()[-1] == "mm-balance: error: 2 of 5 runs failed; all others are there"
    (failed,) = [run for run in runs() if run.data.tags.get("mm.row") == "ablation: impossible"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["mm.error"].startswith("method greedy brings its own head")
    (diverged,) = [run for run in runs() if run.data.tags.get("mm.diverged") == "true"]
    assert (diverged.info.status, diverged.data.tags["mm.row"]) == ("FAILED", "ablation: diverging")
    assert len(runs(stage="evaluate")) == 3
    assert len(runs(stage="warmup")) == 1

    # Again: what failed by an error is tried again, what diverged is not, and nothing else is trained.
    before = {run.info.run_id for run in runs()}
    assert do("reproduce", WORDS) == 1
    fresh = [run for run in runs() if run.info.run_id not in before]
    assert [run.data.tags["mm.row"] for run in fresh] == ["ablation: impossible"]
    assert "[1/1] ablation: impossible" in capsys.readouterr().out

    # Once no row fails, all is well; a run has exactly the settings by which it is found.
    tables = rows(*GOOD)
    assert do("reproduce", WORDS) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    names = {name for name, item in options().items() if not (item.machine or item.reference)} - {"seed"}
    declared = jobs(tables, short_base("quick", device="cpu"), [0])
    assert len(declared) == 3
    for job in declared:
        (run,) = [run for run in trained() if run.data.tags["mm.row"] == job.label]
        logged = {**run.data.tags, **run.data.params}
        assert {name: logged.get(name) for name in job.settings} == job.settings
        others = {name for name in logged if name.startswith(("config/", "method/"))} - set(job.settings)
        assert not {name for name in others if name.removeprefix("config/") in names or name.startswith("method/")}
        assert steps(run)[-1] == 2
        assert f"{job.config.method.method} tiny seed 0" in run.info.run_name


def test_more_seeds_are_added_and_a_dry_run_trains_nothing(rows, capsys):
    rows(GOOD[2])
    assert do("reproduce", WORDS) == 0
    before = len(runs())
    assert do("reproduce", "preset=quick seeds=2 workers=1 device=cpu dry_run=true") == 0
    said = capsys.readouterr().out
    assert "joint" in said
    assert "1 there, 1 missing" in said
    assert "left: 1 runs" in said
    assert len(runs()) == before
    assert do("reproduce", "preset=quick seeds=2 workers=1 device=cpu") == 0
    assert [run.data.tags["mm.seed"] for run in trained()] == ["0", "1"]


def test_a_stopped_run_is_continued(rows, monkeypatch, capsys):
    rows(GOOD[2])
    polls = iter([False] * 7)  # of ten batches, five in an epoch
    config = ReproductionConfig(preset="quick", seeds=1, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "stop_requested", lambda: next(polls, True))
        with pytest.raises(Interrupted):
            command.reproduce(config, MACHINE, lambda: any(run.info.status == "KILLED" for run in trained()))
    (stopped,) = trained()
    assert stopped.info.status == "KILLED"
    assert "0 of 1 runs are there" in capsys.readouterr().err
    assert do("reproduce", WORDS) == 0
    (run,) = trained()
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")
    assert run.data.tags["mm.resumed_from_epoch"] == "1"
    assert steps(run) == [1, 2]


def test_a_run_that_only_its_process_was_told_to_stop_is_reported(rows, monkeypatch, capsys):
    rows(GOOD[2])
    with monkeypatch.context() as patch:
        patch.setattr(pool, "stop_requested", lambda: True)
        assert do("reproduce", WORDS) == 1
    assert "stopped: ablation: joint; methods: joint, seed 0" in capsys.readouterr().out


def die(job, data, run):
    raise SystemExit


def test_what_a_dead_command_left_running_is_continued(rows, monkeypatch):
    rows(GOOD[2])
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", die)
        with pytest.raises(SystemExit):
            do("reproduce", WORDS)
    (left,) = trained()
    assert left.info.status == "RUNNING"
    assert do("reproduce", WORDS) == 0
    (run,) = trained()
    assert (run.info.run_id, run.info.status) == (left.info.run_id, "FINISHED")


def test_a_run_whose_processes_die_twice_fails(rows, monkeypatch, capsys):
    class Dead:
        def submit(self, work, task):
            with monkeypatch.context() as patch:
                patch.setattr(training, "_train", die)
                with pytest.raises(SystemExit):
                    work(task)
            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

        def shutdown(self, **more):
            pass

    rows(GOOD[2])
    with monkeypatch.context() as patch:
        patch.setattr(pool, "new_executor", lambda slot, stop: Dead())
        assert do("reproduce", WORDS) == 1
    (run,) = trained()
    assert run.info.status == "FAILED"
    assert "killed 2 times" in run.data.tags["mm.error"]
    assert "failed: ablation: joint; methods: joint, seed 0: its process was killed" in capsys.readouterr().out


@pytest.mark.verify
def test_a_warm_up_that_fails_takes_its_own_rows_along_only(rows, monkeypatch, capsys):
    rows(*GOOD)
    train = training._train

    def fail_warmup(job, data, run):
        if job.is_warmup:
            raise OSError("disk full")
        train(job, data, run)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", fail_warmup)
        assert do("reproduce", WORDS) == 1
    assert "1 of 3 runs are there" in capsys.readouterr().out
    failed = [
        run for run in trained() if run.data.tags["mm.row"].startswith("ablation") and run.info.status == "FAILED"
    ]
    assert len(failed) == 2
    assert all("its warm-up failed" in run.data.tags["mm.error"] for run in failed)
    assert do("reproduce", WORDS) == 0


def test_two_commands_do_not_work_on_the_same_plan(rows, monkeypatch, capsys):
    rows(GOOD[2])
    with command.in_experiment("reproduce-quick"), command._alone():
        assert do("reproduce", WORDS) == 1
    assert "another reproduce command works on the experiment reproduce-quick" in capsys.readouterr().err


def test_under_mlflow_run_the_page_of_the_command_says_what_became_of_the_plan(rows, monkeypatch):
    rows(GOOD[2], IMPOSSIBLE)
    status, run = adopt(monkeypatch, "reproduce", f"{WORDS} dry_run=true")
    assert (status, run.info.status, run.info.run_name) == (0, "FINISHED", "reproduce quick")
    assert "Table 2" in run.data.tags["mlflow.note.content"]
    status, run = adopt(monkeypatch, "reproduce", WORDS)
    assert (status, run.info.status) == (1, "FAILED")
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("Failed: 1 of 2 runs failed")
    assert "ablation: impossible, seed 0" in note
    (joint,) = [item for item in trained() if item.info.status == "FINISHED"]
    assert joint.info.experiment_id != run.info.experiment_id  # a project run is in Default unless another one is named
    assert "mlflow.parentRunId" not in joint.data.tags


def test_mistakes_are_reported_before_anything_begins(store, capsys):
    for words, message in (
        ("tables=methds", "tables=methds is not known"),
        ("preset=digits dataset=x.csv", "embedded"),
        ("preset=manifest", "give dataset=PATH"),
        ("preset=cremad", "is not prepared"),
        ("preset=imagenet", "preset=imagenet is not known"),
        ("seeds=0", "seeds=0 is out of range"),
    ):
        assert call("reproduce", spelled(words)) == 1
        assert message in capsys.readouterr().err
    assert not runs()


def test_the_plan_of_data_that_are_not_prepared_is_printed(store, capsys):
    assert do("reproduce", "preset=cremad dry_run=true tables=optimizer") == 0
    said = capsys.readouterr().out
    assert "SGD: same" in said
    assert "no estimate: dataset=cremad" in said
    assert "-e prepare" in said
    with pytest.raises(UserError, match="is not prepared"):
        command.reproduce(ReproductionConfig(preset="cremad", seeds=1), MACHINE, lambda: False)
