"""The whole of it: the plan, what is there already, the estimate, the work, what failed."""

from __future__ import annotations

import fcntl
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mm_balance.config import AUTO, Config, ReproductionConfig, resolve
from mm_balance.data import MultimodalData
from mm_balance.errors import Interrupted, UserError, did_you_mean
from mm_balance.folders import cache_folder
from mm_balance.reproduction import pool
from mm_balance.reproduction.estimate import Estimate, Speed, measure, settings_key
from mm_balance.reproduction.plan import Job, Place, base_settings, jobs, with_warmups
from mm_balance.reproduction.tables import Table, tables_of
from mm_balance.reproduction.training import (
    DIVERGED,
    FAILED,
    FOUND,
    JOB_TAG,
    STOPPED,
    TRAINED,
    Outcome,
    Task,
    accuracies_of,
    close_dead,
    diverged,
    do,
    evaluations,
    experiment,
    fail_dead,
    finished,
    seconds_of,
    task_of,
)
from mm_balance.study.devices import Slot, assign, choose_devices, own_cores, visible_devices
from mm_balance.tracking.lookup import adopted_run_id, chosen_experiment, in_experiment, prepare_store, tracking_uri
from mm_balance.tracking.query import RunRecord, find_runs
from mm_balance.tracking.runs import TrackedRun
from mm_balance.workflow.setup import read_data, resolve_device

Stop = Callable[[], bool]
AGAIN = {DIVERGED: "does not try it again", FAILED: "tries it again", STOPPED: "continues it"}
"""What the same command does about a run that did not succeed."""


@dataclass
class Plan:
    """What is to be done, and what is known of it.

    Attributes:
        config: parameters of the command.
        tables: the tables.
        rows: every distinct training of them.
        known: jobs that earlier commands have done, or found to diverge.
        tasks: what is left, warm-ups included, in order.
        slots: one for each process.
        estimate: how long jobs take; None = not known.
    """

    config: ReproductionConfig
    tables: Sequence[Table]
    rows: Sequence[Job]
    slots: Sequence[Slot]
    estimate: Estimate | None = None
    known: dict[Job, Outcome] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    @property
    def seeds(self) -> range:
        return range(self.config.first_seed, self.config.first_seed + self.config.seeds)

    @property
    def left(self) -> list[Job]:
        return [task.job for task in self.tasks]


def reproduce(config: ReproductionConfig, machine: Mapping[str, Any], stop: Stop) -> None:
    """Print the plan and its estimate; unless it is a dry run, do what is missing of it.

    Args:
        config: parameters of the command.
        machine: parameters ``data_dir``, ``device``, and ``allow_outside`` if it is not the default.
        stop: polled repeatedly.

    Raises:
        UserError: an error in the parameters; data that are not prepared; another command works on the plan; rows failed.
        Interrupted: a stop was requested.
    """
    tables = chosen_tables(config)
    slots = _slots(config, machine["device"])
    base = base_settings(
        config.preset,
        None if config.dataset == AUTO else config.dataset,
        **{**machine, "device": slots[0].device},
    )
    rows = jobs(tables, base, range(config.first_seed, config.first_seed + config.seeds))
    torch.set_num_threads(int(slots[0].environment["OMP_NUM_THREADS"]))  # as in the workers
    page = _Page.of_adopted_run(f"reproduce {config.preset}")
    with in_experiment(chosen_experiment() or f"reproduce-{config.preset}"):
        plan = Plan(config, tables, rows, slots)
        try:
            data = read_data(resolve(base), stop)
        except UserError as error:
            if not config.dry_run:
                raise
            page.finish(_show([*plan_lines(plan), f"no estimate: {error}"]))
            return
        if config.dry_run:
            _look_around(plan, resolve(base), data)
            page.finish(_show(plan_lines(plan)))
            return
        prepare_store()
        with _alone():
            close_dead()
            _look_around(plan, resolve(base), data)
            _show(plan_lines(plan))
            page.finish(_work(plan, stop, page))


def chosen_tables(config: ReproductionConfig) -> list[Table]:
    """Return the tables that the command is about. Raises UserError for a name that no table has."""
    tables = {table.name: table for table in tables_of(config.preset)}
    if config.tables == AUTO:
        return list(tables.values())
    names = [name.strip() for name in config.tables.split(",")]
    for name in names:
        if name not in tables:
            raise UserError(
                f"tables={name} is not known; give some of {', '.join(tables)}{did_you_mean(name, list(tables))}"
            )
    return [tables[name] for name in dict.fromkeys(names)]


def _slots(config: ReproductionConfig, device: str) -> list[Slot]:
    """Return the processes' resources: CUDA devices in turn, or one CPU thread each."""
    if device != AUTO:
        resolve_device(device)  # one that this machine lacks is reported now
    devices = choose_devices(AUTO if device == "cuda" else device, visible_devices())
    slots = assign(devices, None if config.workers == AUTO else config.workers, own_cores())
    return slots if devices else pool.cpu_slots(len(slots))


def _look_around(plan: Plan, base: Config, data: MultimodalData) -> None:
    """Find out what is there already, what is left, and how long it takes."""
    tasks = {job: task_of(job, data) for job in plan.rows}
    records: dict[str, list[RunRecord]] = {}
    for status in ("FINISHED", "FAILED"):
        for run in find_runs(experiment(), status=status):
            records.setdefault(run.tags.get(JOB_TAG, ""), []).append(run)
    tested = evaluations(records.get("", []))
    timed: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for job, task in tasks.items():
        runs = records.get(task.identity, [])
        done = finished(runs)
        if done is not None and done.run_id in tested:
            plan.known[job] = Outcome(FOUND, accuracies_of(tested[done.run_id]), done.run_id)
            timed.setdefault(settings_key(job), []).append(seconds_of(done))
        elif done is None and (failed := diverged(runs)) is not None:
            plan.known[job] = failed
    left = [
        tasks.get(job) or task_of(job, data) for job in with_warmups(job for job in plan.rows if job not in plan.known)
    ]
    plan.tasks = [task for task in left if not task.job.is_warmup or finished(records.get(task.identity, [])) is None]
    speed = measure(base, data) if left else Speed(0.0, plan.slots[0].device, 0.0, 0)
    plan.estimate = Estimate(speed, {key: sum(values) / len(values) for key, values in timed.items()})


def _work(plan: Plan, stop: Stop, page: _Page) -> list[str]:
    """Do the tasks and return the summary. Raises UserError where rows failed, Interrupted where a stop was requested."""
    assert plan.estimate is not None
    outcomes: dict[Job, Outcome] = {}
    warmups = {task.job.warmup_key: task for task in plan.tasks if task.job.is_warmup}
    left = list(plan.left)

    def ready(task: Task, done: set[Task]) -> bool:
        warmup = warmups.get(task.job.warmup_key) if task.job.after_warmup else None
        return warmup is None or warmup in done

    def on_death(task: Task) -> None:
        close_dead(task)
        print(f"mm-balance: the process of {_name(task.job)} was killed", file=sys.stderr)

    for task, result in pool.work_through(plan.tasks, do, plan.slots, ready=ready, stop=stop, on_death=on_death):
        outcome = result if isinstance(result, Outcome) else fail_dead(task, str(result) or type(result).__name__)
        outcomes[task.job] = outcome
        left.remove(task.job)
        if outcome.status == STOPPED:
            continue
        if outcome.status == TRAINED:
            plan.estimate.learn(task.job, outcome.seconds)
        print(_progress(plan, task.job, outcome, left), flush=True)
    results = plan.known | {job: outcome for job, outcome in outcomes.items() if not job.is_warmup}
    lines = summary_lines(plan, results)
    if stop():
        page.describe(lines)
        print(f"mm-balance: stopped; {lines[0]}; the same command goes on", file=sys.stderr)
        raise Interrupted
    _show(lines)
    failed = sum(not outcome.succeeded for outcome in results.values())
    if failed:
        page.describe(lines)
        raise UserError(f"{failed} of {len(plan.rows)} runs failed; all others are there")
    return lines


def _progress(plan: Plan, job: Job, outcome: Outcome, left: Sequence[Job]) -> str:
    """Describe a job that ended, and what is left, in one line."""
    assert plan.estimate is not None
    total = len(plan.tasks)
    said = outcome.message.replace("*", "") or outcome.status
    said = said if outcome.succeeded else f"{outcome.status.upper()}: {said}"
    rest = (
        f"{len(left)} left, about {duration(plan.estimate.seconds_of(left, len(plan.slots)))}" if left else "none left"
    )
    return f"[{total - len(left)}/{total}] {_name(job)}: {said} ({outcome.seconds:.0f} s; {rest})"


def plan_lines(plan: Plan) -> list[str]:
    """Describe the plan: every row of every table, what is there of it, and how long the rest takes."""
    seeds, rows = plan.config, sum(len(table.rows) for table in plan.tables)
    last = seeds.first_seed + seeds.seeds - 1
    which = f"seed {last}" if seeds.seeds == 1 else f"seeds {seeds.first_seed} to {last}"
    lines = [
        f"{seeds.preset}: {len(plan.tables)} tables, {rows} rows, {which}: {len(plan.rows)} runs (a training that several rows share "
        f"is one run), in the experiment {experiment()}"
    ]
    left = set(plan.left)
    by_place: dict[Place, list[Job]] = {}
    for job in plan.rows:
        for place in job.places:
            by_place.setdefault(place, []).append(job)
    for table in plan.tables:
        own = [job for job in plan.rows if job.places[0].table == table.name and job in left]
        lines += ["", f"{table.title} (tables={table.name})" + _time(plan, own, " about ")]
        for row in table.rows:
            place = Place(table.name, row.group, row.name)
            members = by_place[place]
            first = members[0].places[0]
            states = [_state(plan.known.get(job)) for job in members]
            cells = [
                f"{f'{row.group}: ' if row.group else ''}{row.name}",
                f"{members[0].total_epochs} epochs",
                ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
                f"the run of {first}" if first != place else _time(plan, [members[0]], "", workers=1),
            ]
            lines.append(f"  {cells[0]:<48} {cells[1]:>10}  {cells[2]:<24} {cells[3]}".rstrip())
    return [*lines, "", *_total(plan)]


def _state(known: Outcome | None) -> str:
    if known is None:
        return "missing"
    return "there" if known.succeeded else known.status


def _time(plan: Plan, members: Sequence[Job], before: str, workers: int | None = None) -> str:
    if plan.estimate is None or not members:
        return ""
    return before + duration(plan.estimate.seconds_of(members, workers or len(plan.slots)))


def _total(plan: Plan) -> list[str]:
    if plan.estimate is None:
        return []
    warmups = sum(job.is_warmup for job in plan.left)
    if not plan.left:
        return ["nothing is left to train"]
    speed = plan.estimate.speed
    return [
        f"left: {len(plan.left) - warmups} runs, and {warmups} warm-ups that some of them start from",
        f"estimate: {duration(plan.estimate.seconds_of(plan.left, len(plan.slots)))} with {len(plan.slots)} processes "
        f"({1000 * speed.step_seconds:.0f} ms per step of joint training on {speed.device}, measured now; other methods by the "
        "encoder passes that they need). It is corrected while the command works.",
    ]


def summary_lines(plan: Plan, results: Mapping[Job, Outcome]) -> list[str]:
    """Describe what is there, and list what failed."""
    there = sum(outcome.succeeded for outcome in results.values())
    lines = [f"{there} of {len(plan.rows)} runs are there, in the experiment {experiment()}"]
    for job in plan.rows:
        outcome = results.get(job)
        if outcome is not None and not outcome.succeeded:
            run = f", run {outcome.run_id}" if outcome.run_id else ""
            lines.append(
                f"  {outcome.status}: {_name(job)}: {outcome.message} (the same command {AGAIN[outcome.status]}{run})"
            )
    return lines


def duration(seconds: float) -> str:
    """Format as ``40 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _name(job: Job) -> str:
    return f"{job.label}, seed {job.seed}"


def _show(lines: list[str]) -> list[str]:
    print("\n".join(lines), flush=True)
    return lines


@dataclass(frozen=True)
class _Page:
    """The run that `mlflow run` has made for the command, if any: it says what became of the plan."""

    run: TrackedRun | None

    @classmethod
    def of_adopted_run(cls, title: str) -> _Page:
        identity = adopted_run_id()
        if identity is None:
            return cls(None)
        run = TrackedRun(identity)
        run.rename(title)
        run.set_tags({"mm.stage": "reproduce"})
        return cls(run)

    def describe(self, lines: Sequence[str]) -> None:
        if self.run is not None:
            self.run.describe("\n".join(["```", *lines, "```"]))

    def finish(self, lines: Sequence[str]) -> None:
        self.describe(lines)
        if self.run is not None:
            self.run.terminate("FINISHED")


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of the plan, which the system releases if this process dies. Raises UserError if another command has it."""
    folder = cache_folder() / "reproduction"
    folder.mkdir(parents=True, exist_ok=True)
    place = f"{tracking_uri()} {experiment()}"
    with (folder / f"{zlib.crc32(place.encode()):08x}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another reproduce command works on the experiment {experiment()}; wait for it, or stop it first"
            ) from None
        yield
