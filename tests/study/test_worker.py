"""Workers as real processes, with a formula instead of training: nothing lost, nothing twice, whatever is killed."""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mm_balance.config import StudyConfig, apply_preset, resolve
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import Interrupted, UserError
from mm_balance.folders import work_folder
from mm_balance.study.handle import find_study, make_pruner, make_sampler, make_study, pin_warmups
from mm_balance.study.report import configured_trial, run_line
from mm_balance.study.settings import automatic_name, new_settings, searchable
from mm_balance.study.trials import ERROR, ORIGIN, RETRY_OF, RUN, STATUS, all_trials, count_trials, counted_trials
from mm_balance.study.worker import run_worker
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import nested_runs, open_run
from mm_balance.workflow.plans import warmup_plan
from mm_balance.workflow.runs import run_stage
from mm_balance.workflow.setup import read_data
from mm_balance.workflow.warmups import find_matching_warmup
from tests.helpers.outside import write_module
from tests.helpers.stages import never
from tests.helpers.studies import settings_of, trivial_worker
from tests.helpers.trivial_worker import train, work_on


def check_runs_agree(handle):
    """Every trial has one run with the status that belongs to its state, and nothing is RUNNING."""
    runs = {run.run_id: run.read() for run in nested_runs(handle.parent, {"mm.study": handle.name})}
    trials = all_trials(handle.study)
    numbers = Counter(run.data.tags["mm.trial"] for run in runs.values())
    assert max(numbers.values()) == 1
    for trial in trials:
        assert trial.state.is_finished()
        found = [run for run in runs.values() if run.data.tags["mm.trial"] == str(trial.number)]
        if not found:  # killed before it had one
            assert trial.state == TrialState.FAIL
            continue
        assert found[0].info.status == STATUS[trial.state]
        if RUN in trial.user_attrs:
            assert found[0].info.run_id == trial.user_attrs[RUN]
        if trial.state == TrialState.COMPLETE:
            assert found[0].data.metrics["val/accuracy"] == trial.value


def test_a_study_gets_exactly_its_trials_and_continues_to_more(new_desk):
    handle = new_desk(trials=4)
    assert work_on(handle) == 4
    assert work_on(handle) == 0
    handle.study.set_user_attr("trials", 6)
    assert work_on(find_study("mine", "auto")) == 2
    assert count_trials(all_trials(handle.study)).complete == 6
    check_runs_agree(handle)


def test_one_worker_draws_the_same_whether_it_was_cut_off_or_not(new_desk):
    whole = new_desk(trials=14, name="whole")
    work_on(whole)
    parts = new_desk(trials=7, name="parts")
    work_on(parts)
    parts.study.set_user_attr("trials", 14)
    work_on(find_study("parts", "auto"))
    assert [trial.params for trial in all_trials(whole.study)] == [trial.params for trial in all_trials(parts.study)]


def test_a_trial_that_fails_is_one_trial_not_the_study(new_desk):
    handle = new_desk(trials=4)

    def sometimes(config, data, run, stop, on_point):
        number = len(all_trials(handle.study)) - 1
        if number == 1:
            raise MemoryError("no memory left")
        if number == 2:
            raise UserError("the training loss is no longer finite")
        return train(config, data, run, stop, on_point)

    work_on(handle, train=sometimes)
    states = [trial.state for trial in all_trials(handle.study)]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert all_trials(handle.study)[1].user_attrs[ERROR] == "MemoryError: no memory left"
    failed = nested_runs(handle.parent, {"mm.trial": "2"})[0]
    assert "no longer finite" in failed.read().data.tags["mm.error"]
    assert failed.artifact_names("") == ["error.txt"]
    check_runs_agree(handle)


def test_when_all_first_trials_fail_it_stops_and_says_why(new_desk):
    def broken(config, data, run, stop, on_point):
        raise RuntimeError("wrong from the start")

    handle = new_desk(trials=40)
    with pytest.raises(UserError, match=r"first 5 trials have all failed.*wrong from the start"):
        work_on(handle, train=broken)
    check_runs_agree(handle)


def test_a_stop_hands_the_trial_on_with_its_checkpoint(new_desk):
    handle = new_desk(trials=3)
    stopped = []

    def interrupted(config, data, run, stop, on_point):
        folder = work_folder(run.run_id)
        if not stopped:
            folder.mkdir(parents=True)
            (folder / "last").write_text("half-way")
            stopped.append(run.run_id)
            raise Interrupted
        if (folder / "last").exists():
            stopped.append((folder / "last").read_text())
        return train(config, data, run, stop, on_point)

    with pytest.raises(Interrupted):
        work_on(handle, train=interrupted)
    assert count_trials(all_trials(handle.study)).waiting == 1
    work_on(handle, train=interrupted)
    assert stopped[1:] == ["half-way"]
    assert not work_folder(stopped[0]).exists()
    first, again, *_ = all_trials(handle.study)
    assert again.user_attrs[RETRY_OF] == first.number
    assert again.params == first.params
    assert count_trials(all_trials(handle.study)).complete == 3
    check_runs_agree(handle)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_objective_that_is_no_number_fails_on_both_sides_and_ends_no_worker(new_desk, bad):
    handle = new_desk(trials=4, pruner="median")

    def sometimes(config, data, run, stop, on_point):
        if len(all_trials(handle.study)) == 2:
            on_point(MetricPoint(1, 0, {"val/accuracy": bad}))
            return {"val/accuracy": bad}
        return train(config, data, run, stop, on_point)

    assert work_on(handle, train=sometimes) == 4
    states = [trial.state for trial in all_trials(handle.study)]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert f"val/accuracy is {bad}" in all_trials(handle.study)[1].user_attrs[ERROR]
    assert all_trials(handle.study)[1].intermediate_values == {}
    (run,) = nested_runs(handle.parent, {"mm.trial": "1"})
    assert "the training has diverged" in run.read().data.tags["mm.error"]
    check_runs_agree(handle)


def test_when_all_first_trials_are_no_numbers_or_died_it_says_so(new_desk):
    handle = new_desk(trials=40)
    with pytest.raises(UserError, match=r"first 5 trials have all failed; the last: .*val/accuracy is nan"):
        work_on(handle, train=lambda *words: {"val/accuracy": float("nan")})
    other = new_desk(trials=40, name="other")
    for _ in range(5):  # killed before they could say why
        other.study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    with pytest.raises(UserError, match=r"first 5 trials have all failed; the last: its worker process died"):
        work_on(other)


@pytest.mark.parametrize("origin", [{}, {ORIGIN: "configured"}])
def test_the_configured_trial_is_never_pruned(new_desk, origin):
    """Any other trial with these values is."""
    handle = new_desk(trials=8, pruner="median")
    do_better = 7
    values = dict.fromkeys(handle.settings.dimensions, 1.0)

    def graded(config, data, run, stop, on_point):
        quality = 0.1 if len(all_trials(handle.study)) == do_better else 0.9
        for epoch in range(1, handle.settings.epochs + 1):
            on_point(MetricPoint(epoch, 0, {"val/accuracy": quality}))
        return {"val/accuracy": quality}

    handle.study.set_user_attr("trials", 6)
    work_on(handle, train=graded)
    handle.study.enqueue_trial(values, user_attrs=origin)
    handle.study.set_user_attr("trials", 7)
    work_on(handle, train=graded)
    last = all_trials(handle.study)[-1]
    assert last.state == (TrialState.COMPLETE if origin else TrialState.PRUNED)
    started = configured_trial(handle)
    assert (started.number, started.values) == (6, [0.1]) if origin else started is None


@pytest.mark.verify
def test_all_trials_begin_from_the_study_s_own_warm_up_whatever_else_is_trained_meanwhile(store):
    data = read_data(resolve({"preset": "quick", "train_fraction": 0.05}))
    filled = apply_preset({"method": "gap_mixture", "preset": "quick", "train_fraction": 0.05})
    asked = StudyConfig(space=None, search="weights", pruner="none")
    settings = new_settings(asked, filled, threads=1, data_digest=data.digest, given=set())
    own = settings.config({}, device="cpu")
    first, second = open_run("first"), open_run("second")
    run_stage(warmup_plan(own), data, first, never)
    handle = make_study("mine", "auto", replace(settings, warmups={"0": first.run_id}), open_run("study"), 1)
    run_worker(handle, data, never, device="cpu", label="cpu")
    run_stage(warmup_plan(own), data, second, never)
    assert find_matching_warmup(own, data).run_id == second.run_id  # the newest of the fingerprint is now another one
    handle.study.set_user_attr("trials", 2)
    run_worker(find_study("mine", "auto"), data, never, device="cpu", label="cpu")
    tags = [run.read().data.tags for run in nested_runs(handle.parent, {"mm.stage": "trial"})]
    assert [item["mm.warmup_run"] for item in tags] == [first.run_id, first.run_id]
    assert f"warmup_run={first.run_id}" in run_line(handle.settings.config({}), handle)


def test_of_two_that_make_a_study_the_first_decides_on_its_warm_up(new_desk):
    handle = new_desk(name="mine")
    pinned = replace(handle.settings, warmups={"0": "another"})
    second = make_study("mine", "auto", pinned, open_run("too late"), 5)
    assert second.settings.warmups == {}
    assert second.parent.run_id == handle.parent.run_id
    more = pin_warmups(second, {"1": "of seed 1"})
    assert pin_warmups(more, {"1": "too late", "2": "of seed 2"}).settings.warmups == {
        "1": "of seed 1",
        "2": "of seed 2",
    }
    assert find_study("mine", "auto").settings.warmups == {"1": "of seed 1", "2": "of seed 2"}


def test_a_study_made_by_other_code_is_refused(new_desk, monkeypatch):
    new_desk(name="mine")
    monkeypatch.setattr("mm_balance.study.handle.training_code", lambda method, config: "f" * 64)
    with pytest.raises(UserError, match="was created with different training code"):
        find_study("mine", "auto")


def test_a_study_of_a_method_outside_the_package(store, new_desk, monkeypatch, import_folder):
    """Its workers import it from the folder that they are started in."""
    write_module(store, "studied_methods")
    write_module(import_folder, "studied_methods")
    handle = new_desk(trials=2, method="studied_methods:Halved", search="method")
    assert set(handle.settings.dimensions) == {"factor"}
    assert "halved.batch_size" in searchable(handle.settings.values)
    assert automatic_name(StudyConfig(space=None, search="method"), handle.settings).startswith("digits-halved-method-")
    crowd(handle, 1, 2)
    monkeypatch.setattr("mm_balance.workflow.provenance._outside_digest", lambda source: "edited")
    with pytest.raises(UserError, match="was created with different training code"):
        find_study("mine", "auto")


def test_other_data_are_refused(new_desk):
    other = replace(tiny_data(), digest="1" * 64)
    with pytest.raises(UserError, match="was created on different data"):
        run_worker(new_desk(), other, never, device="cpu", label="cpu")


def test_pruned_trials_end_early_and_their_runs_say_so(new_desk):
    handle = new_desk(trials=30, pruner="median")

    def slow(config, data, run, stop, on_point):
        for epoch in range(1, 13):
            value = (1 - abs(config.gap_mixture.gap_weight - 0.7) / 10) * epoch / 12
            on_point(MetricPoint(epoch, int(time.time() * 1000), {"val/accuracy": value}))
        return {"val/accuracy": value}

    work_on(handle, train=slow)
    standing = count_trials(all_trials(handle.study))
    assert standing.finished == 30
    assert standing.pruned > 3
    for trial in all_trials(handle.study):
        if trial.state == TrialState.PRUNED:
            assert trial.user_attrs["epochs"] < 12
            assert nested_runs(handle.parent, {"mm.trial": str(trial.number)})[0].read().info.status == "KILLED"


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp", "nsga2"])
def test_every_sampler_draws_within_the_space(new_desk, sampler):
    handle = new_desk(trials=13, sampler=sampler)
    work_on(handle)
    for trial in all_trials(handle.study):
        assert all(handle.settings.dimensions[name].contains(value) for name, value in trial.params.items())
    assert len({str(trial.params) for trial in all_trials(handle.study)}) == 13


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2"])
def test_two_objectives(new_desk, sampler):
    handle = new_desk(trials=13, sampler=sampler, objective="val/accuracy,val/gap_mean_abs")
    work_on(handle)
    assert count_trials(all_trials(handle.study)).complete == 13
    front = handle.study.best_trials
    assert all(
        not (other.values[0] > one.values[0] and other.values[1] < one.values[1]) for one in front for other in front
    )


def test_pruners_and_samplers_are_optunas():
    assert isinstance(make_pruner(settings_of(pruner="hyperband")), optuna.pruners.HyperbandPruner)
    assert isinstance(make_pruner(settings_of(pruner="median")), optuna.pruners.MedianPruner)
    assert isinstance(make_pruner(settings_of(pruner="none")), optuna.pruners.NopPruner)
    assert isinstance(make_sampler(settings_of(sampler="gp"), 3), optuna.samplers.GPSampler)


def crowd(handle, workers, trials):
    processes = [trivial_worker(handle) for _ in range(workers)]
    ended = [process.wait(timeout=300) for process in processes]
    said = [process.said() for process in processes]
    assert ended == [0] * workers, said
    finished = all_trials(handle.study)
    assert len(finished) == trials
    assert {trial.state for trial in finished} == {TrialState.COMPLETE}
    assert len({trial.number for trial in finished}) == trials
    assert len({str(trial.params) for trial in finished}) == trials
    assert "lock" not in "".join(said).lower()
    check_runs_agree(handle)
    return said


MANY = pytest.param(4, 200, marks=pytest.mark.verify)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "trials"), [(3, 12), MANY])
def test_workers_on_a_journal_file_make_exactly_the_trials_asked_for(new_desk, workers, trials):
    crowd(new_desk(trials=trials), workers, trials)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "trials"), [(2, 8), MANY])
def test_workers_on_a_database_make_exactly_the_trials_asked_for(new_desk, store, workers, trials):
    crowd(new_desk(trials=trials, storage=f"sqlite:///{store}/optuna.db"), workers, trials)


def program(name):
    """A program of PostgreSQL's server; Debian keeps them off the path."""
    return shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)


@pytest.fixture
def postgres():
    """A PostgreSQL server of the test's own, on a socket: a port could be another's."""
    programs = {name: program(name) for name in ("initdb", "pg_ctl")}
    if None in programs.values():
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))  # paths of sockets must be short
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")

    def do_as_server(*words):
        done = subprocess.run([*as_user, *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        do_as_server(programs["initdb"], "-D", folder / "data", "-A", "trust", "-U", "mm", "--no-sync")
        control = [programs["pg_ctl"], "-D", folder / "data", "-w"]
        do_as_server(*control, "-o", f"-k {folder} -c listen_addresses=", "-l", folder / "log", "start")
        yield f"postgresql+psycopg://mm@/postgres?host={folder}"
        do_as_server(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.mark.verify
def test_four_workers_on_postgresql_make_exactly_two_hundred(new_desk, postgres):
    crowd(new_desk(trials=200, storage=postgres), 4, 200)


@pytest.fixture
def proxy(tmp_path):
    """Optuna's proxy server in front of a journal file, as docs/studies.md starts it."""
    pytest.importorskip("grpc")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "from optuna.storages import JournalStorage, run_grpc_proxy_server; "
        "from optuna.storages.journal import JournalFileBackend; "
        f"run_grpc_proxy_server(JournalStorage(JournalFileBackend({str(tmp_path / 'proxied.journal')!r})), "
        f"host='127.0.0.1', port={port})"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    yield f"grpc://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.mark.slow
@pytest.mark.parametrize("trials", [6, pytest.param(20, marks=pytest.mark.verify)])
def test_two_workers_through_optunas_proxy(new_desk, proxy, trials):
    crowd(new_desk(trials=trials, storage=proxy), 2, trials)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.verify)])
def database(request, store):
    """A storage with a heartbeat."""
    return request.getfixturevalue("postgres") if request.param == "postgres" else f"sqlite:///{store}/optuna.db"


@pytest.mark.slow
def test_another_machines_dead_worker_is_found_by_its_heartbeat_though_its_trial_is_the_last(
    new_desk, database, monkeypatch, tmp_path
):
    monkeypatch.setattr("mm_balance.study.storage.HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr("mm_balance.study.storage.HEARTBEAT_GRACE_SECONDS", 3)
    handle = new_desk(trials=1, storage=database)
    with monkeypatch.context() as elsewhere:  # another cache folder: its locks cannot be seen, as on another machine
        elsewhere.setenv("MM_BALANCE_CACHE", str(tmp_path / "elsewhere"))
        process = trivial_worker(handle, seconds=600)
    last = time.monotonic() + 60
    while time.monotonic() < last and not any(RUN in trial.user_attrs for trial in all_trials(handle.study)):
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert work_on(handle, stop=lambda: time.monotonic() > last + 30) == 1
    first, again = all_trials(handle.study)
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.user_attrs[RETRY_OF] == first.number
    assert again.params == first.params
    check_runs_agree(handle)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "kills", "trials"), [(2, 3, 10), pytest.param(3, 10, 40, marks=pytest.mark.verify)]
)
def test_random_kills_lose_nothing(new_desk, workers, kills, trials):
    handle = new_desk(trials=trials)
    draw = random.Random(0)
    processes = [trivial_worker(handle, seconds=0.15) for _ in range(workers)]
    killed, last = 0, time.monotonic() + 400
    while count_trials(all_trials(handle.study)).finished < trials and time.monotonic() < last:
        time.sleep(draw.uniform(0.1, 0.5))
        busy = [trial for trial in all_trials(handle.study) if trial.state == TrialState.RUNNING]
        if killed < kills and busy:
            victim = draw.randrange(workers)
            if processes[victim].poll() is None:
                processes[victim].kill()
                processes[victim].wait()
                killed += 1
        for index, process in enumerate(processes):
            if process.poll() is not None and count_trials(all_trials(handle.study)).finished < trials:
                processes[index] = trivial_worker(handle, seconds=0.15)
    for process in processes:
        process.wait(60)
    assert killed == kills
    assert count_trials(all_trials(handle.study)).finished == trials
    assert len(counted_trials(all_trials(handle.study))) == trials
    check_runs_agree(handle)
