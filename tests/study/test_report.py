"""What a study says of itself: best value so far, comparison on new seeds, line and preset."""

import shlex
import subprocess
from datetime import datetime, timedelta

import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from mm_balance import names
from mm_balance.config import resolve
from mm_balance.engine.recorder import MetricPoint
from mm_balance.errors import UserError
from mm_balance.figures import restyle
from mm_balance.figures.style import MODALITIES
from mm_balance.models import MultimodalNetwork
from mm_balance.study.confirm import compare, publish_confirmation, register_winner, verdict
from mm_balance.study.figures import _figures, study_page
from mm_balance.study.report import (
    BestValueLogger,
    best_so_far,
    best_trial,
    changed_values,
    configured_trial,
    describe_study,
    full_run_epochs,
    preset_text,
    publish,
    run_line,
)
from mm_balance.study.storage import locate, open_storage
from mm_balance.study.trials import RUN, all_trials, describe
from mm_balance.testing import tiny_data
from mm_balance.tracking.lookup import open_run
from mm_balance.tracking.model import log_model
from tests.helpers.studies import settings_of
from tests.helpers.trivial_worker import work_on

BEGIN = datetime(2026, 1, 1)


def ended(number, value, after, state=TrialState.COMPLETE, **attributes):
    trial = create_trial(
        state=state, value=value, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, user_attrs=attributes,
    )  # fmt: skip
    trial.number = number
    trial.datetime_complete = BEGIN + timedelta(seconds=after)
    return trial


def test_best_so_far_goes_by_the_time_at_which_trials_ended():
    trials = [ended(0, 0.5, 30), ended(1, 0.4, 10), ended(2, 0.9, 20, TrialState.PRUNED), ended(3, 0.7, 40)]
    assert [(step, value) for step, _, value in best_so_far(trials, "maximize")] == [
        (1, 0.4),
        (2, 0.4),
        (3, 0.5),
        (4, 0.7),
    ]
    assert [value for _, _, value in best_so_far(trials, "minimize")] == [0.4, 0.4, 0.4, 0.4]


def test_trials_that_another_took_over_do_not_count():
    trials = [ended(0, None, 5, TrialState.FAIL), ended(1, 0.4, 10, retry_of=0)]
    assert [step for step, _, _ in best_so_far(trials, "maximize")] == [1]


def test_live_logs_each_point_once_also_in_another_process(new_desk):
    handle = new_desk(trials=3)
    work_on(handle)
    trials = handle.study.get_trials()
    BestValueLogger(handle)(trials[:2])
    BestValueLogger(handle)(trials)
    series = handle.parent.metric_series("study/best_value")
    assert [step for step, _ in series] == [1, 2, 3]
    assert series[-1][1] == max(trial.value for trial in trials)


def jobs(values):
    return [
        ended(index, value, index, TrialState.FAIL if value is None else TrialState.COMPLETE,
              confirmation={"label": label, "seed": seed, "parameters": {"x": 0.5} if label == "best" else {}})
        for index, ((label, seed), value) in enumerate(values.items())
    ]  # fmt: skip


def test_confirmation_is_paired_by_seed():
    values = {
        ("best", 1): 0.9,
        ("start", 1): 0.8,
        ("best", 2): 0.7,
        ("start", 2): 0.8,
        ("best", 3): 0.95,
        ("start", 3): 0.8,
    }
    told = compare(jobs(values), {"x": 0.5}, [1, 2, 3], "maximize")
    assert [row["difference"] for row in told["rows"]] == pytest.approx([0.1, -0.1, 0.15])
    assert told["mean"] == pytest.approx(0.05)
    assert told["std"] == pytest.approx(0.1322876)  # of 0.1, -0.1, 0.15 with n - 1
    # 4.302653 (Student's t, 2 degrees of freedom, 97.5 %) x 0.1322876 / sqrt(3) = 0.328621
    assert told["interval"] == pytest.approx([-0.278621, 0.378621], abs=1e-5)
    assert (told["better_on"], told["seeds"]) == (2, 3)
    assert "is not shown to beat" in verdict(told, "val/accuracy")
    assert compare(jobs(values), {"x": 0.5}, [1, 2, 3], "minimize")["mean"] == pytest.approx(-0.05)


@pytest.mark.parametrize(
    ("direction", "finding"), [("maximize", "the best trial beats"), ("minimize", "the best trial is worse than")]
)
def test_a_difference_is_a_finding_where_its_interval_lies_on_one_side_of_zero(direction, finding):
    values = {("best", seed): 0.9 + seed / 1000 for seed in (1, 2, 3)} | {("start", seed): 0.8 for seed in (1, 2, 3)}
    told = compare(jobs(values), {"x": 0.5}, [1, 2, 3], direction)
    assert finding in verdict(told, "val/accuracy")


def test_a_training_that_failed_is_left_out_of_the_comparison_and_shown():
    told = compare(
        jobs({("best", 1): None, ("start", 1): 0.8, ("best", 2): 0.9, ("start", 2): 0.8}),
        {"x": 0.5},
        [1, 2],
        "maximize",
    )
    assert told["rows"][0] == {"seed": 1, "best": None, "start": 0.8, "difference": None}
    assert "too few" in verdict(told, "val/accuracy")


def test_a_winner_of_an_earlier_state_of_the_study_is_not_mixed_in():
    told = compare(jobs({("best", 1): 0.9, ("start", 1): 0.8}), {"x": 0.6}, [1], "maximize")
    assert told["rows"][0]["best"] is None


def test_confirming_again_replaces_the_numbers(new_desk):
    """A study that was continued has another winner: what its run shows is the last confirmation's."""
    handle = new_desk(trials=1)
    values = {("best", 1): 0.9, ("start", 1): 0.8, ("best", 2): 0.9, ("start", 2): 0.85}
    for change in (0.0, -0.1):
        changed = {key: value + change * (key[0] == "best") for key, value in values.items()}
        told = compare(jobs(changed), {"x": 0.5}, [1, 2], "maximize")
        publish_confirmation(handle, told)
        found = handle.parent.read().data.metrics
        assert found["study/confirmed_difference"] == pytest.approx(0.075 + change)
        assert found["study/confirmed_difference_std"] == pytest.approx(told["std"])
    assert handle.parent.read_json("study/confirmation.json")["mean"] == pytest.approx(-0.025)


@pytest.fixture
def confirmed(new_desk):
    """A study with a model for every confirmation; a function that registers the winner of these values."""
    handle = new_desk(trials=1)
    data = tiny_data()
    models = {}

    def register(values):
        trials = jobs(values)
        for trial in trials:
            run = open_run("confirmation")
            model = MultimodalNetwork(data.specs, len(data.classes), encoder="resnet_narrow", fusion="concat")
            confirmation = trial.user_attrs["confirmation"]
            models[confirmation["label"], confirmation["seed"]] = log_model(run, model, data, 1)
            trial.user_attrs[RUN] = run.run_id
        seeds = sorted({seed for _, seed in values})
        comparison = compare(trials, {"x": 0.5}, seeds, "maximize")
        return register_winner(handle, trials, comparison, {"x": 0.5}, "winner")

    register.models = models
    return register


def test_a_confirmed_winner_is_the_champion_of_the_registry(confirmed):
    sentence = confirmed({("best", 1): 0.95, ("start", 1): 0.8, ("best", 2): 0.97, ("start", 2): 0.82})
    assert sentence.startswith("Registered as `winner`, version 1, alias `champion`: the model of run")
    version = MlflowClient().get_model_version_by_alias("winner", "champion")
    assert version.source == confirmed.models["best", 2]  # the better one on validation
    assert version.description.startswith("Winner of study `mine`. On 2 new seeds the best trial beats")


def test_a_winner_that_new_seeds_do_not_confirm_is_not_registered(confirmed):
    sentence = confirmed({("best", 1): 0.95, ("start", 1): 0.8, ("best", 2): 0.7, ("start", 2): 0.8})
    assert (
        sentence
        == "register_as=winner: nothing registered, because new seeds do not show that the best trial is better."
    )
    assert not MlflowClient().search_registered_models()


def test_a_starting_configuration_that_has_no_result_is_not_given_one(new_desk):
    handle = new_desk(trials=1)
    work_on(handle)
    pruned = create_trial(
        state=TrialState.PRUNED, value=0.61, params=all_trials(handle.study)[0].params,
        distributions=all_trials(handle.study)[0].distributions, user_attrs={"origin": "configured"},
    )  # fmt: skip
    handle.study.add_trial(pruned)
    assert configured_trial(handle) is None
    assert "0.6100" not in describe_study(handle, dict.fromkeys(names.STUDY_METRICS, 1.0))
    assert [describe(trial, ["val/accuracy"])["origin"] for trial in all_trials(handle.study)] == ["", "configured"]


def test_a_full_run_has_both_stages():
    assert full_run_epochs(settings_of()) == 18
    assert full_run_epochs(settings_of("concat", search="optimizer")) == 18


def test_what_changed_is_what_differs_from_the_data_sets_own_preset():
    settings = settings_of(space="hard_weight=0.7")
    config = settings.config({"gap_weight": 0.25, "shift_weight": 0.5}, seed=4)
    assert changed_values(config, settings) == {"seed": 4, "hard_weight": 0.7, "gap_weight": 0.25}
    other = settings_of("pmr", search="method")
    assert changed_values(other.config({"alpha": 0.5}), other) == {"method": "pmr", "method_options": "alpha=0.5"}


def test_line_and_preset_give_back_the_configuration(new_desk, tmp_path):
    handle = new_desk(trials=3, space="anneal=linear|cosine,refit_every=2:5")
    work_on(handle)
    best = best_trial(handle)
    config = handle.settings.config(best.params)
    path = tmp_path / "best.yaml"
    path.write_text(preset_text(config, handle, best))
    by_preset = resolve({"preset": str(path)})
    assert by_preset.replace(preset="auto") == config
    assert set(yaml.safe_load(path.read_text())) >= {"refit_every"}
    assert "seed" not in yaml.safe_load(path.read_text())
    assert run_line(config, handle).startswith("mlflow run . --env-manager local -e adaptive -P ")


def test_the_report_of_a_study_without_a_complete_trial(new_desk):
    handle = new_desk()
    publish(handle, started=0.0, warmup_epochs=0)
    assert "No trial is complete yet" in handle.parent.description()


def test_the_report_shows_what_was_searched_and_a_command_that_a_shell_reads_as_the_line(new_desk):
    handle = new_desk(trials=3, space="anneal=linear|cosine,hard_weight=0.7")
    work_on(handle)
    publish(handle, started=0.0, warmup_epochs=0)
    told, best = handle.parent.description(), best_trial(handle)
    assert f"| anneal | linear, cosine | cosine | {best.params['anneal']} |" in told
    assert "| gap_weight | 0.05:5.0:log | 0.5 | " in told
    assert "| hard_weight |" not in told  # fixed
    block = [line for line in told.splitlines() if line.startswith("    ")]
    words = subprocess.run(["sh", "-c", "printf '%s\\n' " + "\n".join(block).strip()], capture_output=True, text=True)
    assert words.stdout.splitlines() == shlex.split(run_line(handle.settings.config(best.params), handle))
    assert max(map(len, told.splitlines())) < 160


def test_the_report_of_two_objectives_names_its_front(new_desk, tmp_path):
    handle = new_desk(trials=6, objective="val/accuracy,val/gap_mean_abs")
    work_on(handle)
    publish(handle, started=0.0, warmup_epochs=0)
    assert "Pareto front: trials" in handle.parent.description()
    files = handle.parent.artifact_names("study")
    assert {"study/pareto.png", "study/pareto.pdf"} <= set(files)
    assert [name for name in files if name.endswith(".html")] == ["study/figures.html"]
    page = handle.parent.fetch("study/figures.html", tmp_path).read_text("utf-8")
    assert "<script src" not in page  # nothing is fetched from elsewhere
    for figure in ("history", "slice", "contour", "pareto"):
        assert f'<h2 id="{figure}">' in page
    assert page.count("plotly.js v") == 1, "one copy of the library for all figures"
    assert "study/figures.html" in handle.parent.description()


@pytest.mark.parametrize(("trials", "drawn"), [(9, False), (10, True)])
def test_importances_are_drawn_from_ten_complete_trials_on(new_desk, monkeypatch, trials, drawn):
    handle = new_desk(trials=1)
    found = [
        create_trial(
            state=TrialState.COMPLETE, value=0.1 * number, params={"gap_weight": 0.1 + 0.1 * number},
            distributions={"gap_weight": FloatDistribution(0.05, 5.0)},
        )
        for number in range(trials)
    ]  # fmt: skip
    for trial in found:
        handle.study.add_trial(trial)
    assert ("importance" in _figures(handle, found)) is drawn
    page = study_page("a <study>", {}, trials)
    assert ("Importances of parameters are shown from 10" in page) is not drawn
    assert "a &lt;study&gt;" in page


def test_figures_of_optuna_have_the_style_of_all_others_and_leave_matplotlib_as_it_was():
    from matplotlib import pyplot, rcParams, style

    def draw():
        style.use("ggplot")
        _, axes = pyplot.subplots()
        axes.plot([0, 1], [0, 1])
        return axes

    before, named = dict(rcParams), {name: dict(values) for name, values in style.library.items()}
    (axes,) = restyle(draw).axes
    assert axes.get_facecolor() == (1, 1, 1, 1), "ggplot has a gray background"
    assert axes.get_lines()[0].get_color() == MODALITIES[0]
    assert dict(rcParams) == before
    assert {name: dict(values) for name, values in style.library.items()} == named


def test_a_log_of_several_points_in_one_trial_is_what_optuna_saw(new_desk):
    handle = new_desk(trials=1)

    def three(config, data, run, stop, on_point):
        for epoch in (1, 2, 3):
            on_point(MetricPoint(epoch, 0, {"val/accuracy": epoch / 10}))
        on_point(MetricPoint(3, 0, {"gap/mean": 0.0}))  # no objective in it
        return {"val/accuracy": 0.3}

    work_on(handle, train=three)
    assert handle.study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("file.txt", "ending in .journal"),
        ("nothing://x", "cannot be opened|driver is missing"),
        ("sqlite:////no/such/folder/x.db", "cannot be opened"),
    ],
)
def test_storages_that_cannot_be_used(store, storage, words):
    with pytest.raises(UserError, match=words):
        open_storage(locate(storage, "mine"), lambda study, trial: None)


def test_a_storage_may_be_named_by_the_environment(store, monkeypatch):
    monkeypatch.setenv("STUDIES", f"sqlite:///{store}/optuna.db")
    assert locate("env:STUDIES", "mine") == f"sqlite:///{store}/optuna.db"
    monkeypatch.setenv("STUDIES", "auto")
    assert locate("env:STUDIES", "mine") == locate("auto", "mine")
    monkeypatch.delenv("STUDIES")
    with pytest.raises(UserError, match="storage=env:STUDIES: the environment variable STUDIES is not set"):
        locate("env:STUDIES", "mine")
