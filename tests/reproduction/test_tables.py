"""The tables as declarations, and the jobs that they make."""

import subprocess
import sys
from functools import cache

import pytest

from mm_balance.config import options
from mm_balance.errors import UserError
from mm_balance.functional.schedules import learning_rate_factor
from mm_balance.methods import METHODS
from mm_balance.reproduction.chosen import CHOSEN
from mm_balance.reproduction.plan import base_settings, jobs, with_warmups
from mm_balance.reproduction.tables import (
    CONTROL,
    DATA,
    NEED_WARMUP,
    PAPER_METHODS,
    QUICK,
    SAME_AS_ANOTHER,
    tables_of,
)

ALL = (*DATA, QUICK)


def base_of(data):
    return base_settings(data, "clips/manifest.csv" if data == "manifest" else None)


@cache
def rows_of(data, *, seeds=(0,)):
    return jobs(tables_of(data), base_of(data), seeds)


def table(data, name):
    (found,) = (item for item in tables_of(data) if item.name == name)
    return found


@pytest.mark.parametrize("data", DATA)
def test_every_method_is_in_the_first_table_those_of_the_paper_first(data):
    names = [row.method for row in table(data, "methods").rows]
    assert sorted(names) == sorted(set(METHODS) - set(SAME_AS_ANOTHER))
    assert tuple(names[: len(PAPER_METHODS)]) == PAPER_METHODS


def test_rows_of_the_first_table_start_from_a_warm_up_if_their_method_needs_one():
    assert {name for name in METHODS if METHODS[name].needs_warmup} == set(NEED_WARMUP)
    assert {row.method for row in table("digits", "methods").rows if row.after_warmup} == set(NEED_WARMUP)


def test_no_method_that_holds_samples_out_starts_from_a_warm_up():
    for job in rows_of("digits"):
        assert not (job.after_warmup and METHODS[job.config.method.method].held_out), job.label


@pytest.mark.parametrize("data", ALL)
def test_every_group_has_the_control_and_each_name_once(data):
    for item in tables_of(data):
        assert item.baseline == CONTROL
        for group in item.groups:
            names = [row.name for row in item.rows if row.group == group]
            assert names.count(item.baseline) == 1
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("data", ALL)
def test_the_tables_of_the_paper_come_first(data):
    assert [item.name for item in tables_of(data)] == ["methods", "ablation", "optimizer", "detection", "regimes"]


def rates(job):
    """Learning rate, relative to the initial one, of every epoch of a network."""
    chosen, warmup, plan = job.config.optimization, job.config.warmup.warmup_epochs, job.plan
    before = [1.0] * warmup if job.after_warmup else []
    return before + [
        learning_rate_factor(
            chosen.learning_rate_schedule,
            epoch=epoch,
            first_epoch=len(before),
            stage_epochs=plan.epochs,
            hold=chosen.learning_rate_hold,
            step=chosen.learning_rate_step,
            decay=chosen.learning_rate_decay,
        )
        for epoch in range(len(before), len(before) + plan.epochs)
    ]


@pytest.mark.parametrize("data", ALL)
def test_all_rows_train_as_long_with_the_same_schedule(data):
    rows = rows_of(data)
    assert {job.total_epochs for job in rows} == {rows[0].config.train.epochs}
    assert all(len(rates(job)) == job.total_epochs for job in rows)
    first = rates(rows[0])
    assert all(rates(job) == first for job in rows)


@pytest.mark.parametrize("data", ["digits", "cremad", QUICK])
def test_each_training_is_one_job_that_knows_all_its_rows(data):
    rows = rows_of(data, seeds=(0, 1))
    keys = [(job.seed, *sorted(job.settings.items())) for job in rows]
    assert len(set(keys)) == len(keys)
    places = [(job.seed, place) for job in rows for place in job.places]
    declared = [(item.name, row.group, row.name) for item in tables_of(data) for row in item.rows]
    assert sorted((place.table, place.group, place.row) for seed, place in places if seed == 1) == sorted(declared)
    assert len(set(places)) == len(places)


def test_rows_of_several_tables_are_one_run():
    labels = [job.label for job in rows_of("digits")]
    assert "methods: gap_mixture; ablation: full; optimizer: SGD: reset; regimes: 10 % corrupted: gap_mixture" in labels


def test_seeds_come_one_after_the_other():
    assert [job.seed for job in rows_of(QUICK, seeds=(4, 2))] == [4] * 10 + [2] * 10


def test_a_warm_up_comes_once_before_the_first_row_that_needs_it():
    ordered = with_warmups(rows_of("digits", seeds=(0, 1)))
    warmups = [job for job in ordered if job.is_warmup]
    assert len({job.warmup_key for job in warmups}) == len(warmups)
    for position, job in enumerate(ordered):
        if job.after_warmup:
            assert any(earlier.is_warmup and earlier.warmup_key == job.warmup_key for earlier in ordered[:position])
    # One for the preset's data, one for Adam, one for each other regime and kind of corruption, of each seed.
    assert len(warmups) == 2 * (1 + 1 + 4 + 6)


def test_chosen_options_are_options_of_their_methods_and_reach_the_rows():
    for data, chosen in CHOSEN.items():
        rows = {row.method: row for row in table(data, "methods").rows}
        for method, settings in chosen.items():
            assert set(settings) <= set(METHODS[method].Options.__dataclass_fields__)
            assert dict(rows[method].settings) == dict(settings)
    (opm,) = (job for job in rows_of("digits") if job.label == "methods: opm")
    assert opm.settings["method/start_epoch"] == "2"


def test_cross_fitting_is_done_at_the_beginning_and_at_the_end_only():
    (job,) = (job for job in rows_of("digits") if "cross_fitted" in job.label)
    assert job.plan.refit_every == job.plan.epochs


@pytest.mark.parametrize("data", ["digits", "cremad", QUICK])
def test_settings_say_what_is_trained_and_nothing_of_seed_machine_or_other_runs(data):
    apart = {f"config/{name}" for name, item in options().items() if item.machine or item.reference} | {"config/seed"}
    for job in rows_of(data):
        assert not apart & set(job.settings)


def test_own_clips_and_embedded_data():
    assert base_settings("grid", "letters/manifest.csv")["dataset"] == "letters/manifest.csv"
    assert rows_of("manifest")[0].config.data.dataset.endswith("clips/manifest.csv")
    for preset, dataset, message in (
        ("digits", "x/manifest.csv", "embedded"),
        ("manifest", None, "give dataset=PATH"),
        ("cremad", "elsewhere", "give the path of a manifest.csv"),
    ):
        with pytest.raises(UserError, match=message):
            base_settings(preset, dataset)
    with pytest.raises(UserError, match="has no tables"):
        tables_of("imagenet")


def test_the_declarations_load_no_pytorch():
    code = "import sys, mm_balance.reproduction.tables as t; t.tables_of('digits'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
