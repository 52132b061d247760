"""What a study searches for a method, and what a trial's parameters mean."""

from dataclasses import replace

import pytest

from mm_balance.config import StudyConfig, apply_preset
from mm_balance.errors import UserError
from mm_balance.methods import METHODS, parse_options
from mm_balance.methods.options import declared_options
from mm_balance.study.settings import (
    Settings,
    automatic_name,
    configured_values,
    new_settings,
    parse_objectives,
    rounded,
)
from mm_balance.study.storage import study_folder
from tests.helpers.studies import settings_of


def test_json_and_back():
    for search in ("anneal", "weights", "anneal_and_weights", "form", "optimizer", "method"):
        settings = settings_of(search=search, objective="val/accuracy,val/gap_mean_abs")
        assert Settings.from_json(settings.to_json()) == settings


def test_the_warm_ups_parameters_cannot_be_searched_and_it_says_why():
    with pytest.raises(UserError, match="learning_rate cannot be searched: it belongs to the warm-up"):
        settings_of(space="learning_rate=0.01:0.1:log")
    assert set(settings_of(search="optimizer").dimensions) == {"adaptive_learning_rate", "optimizer_state"}
    assert "learning_rate" in settings_of("concat", search="optimizer").dimensions


SEARCHING = {
    name for name, method in METHODS.items() if any(item.search for item in declared_options(method.Options).values())
}


@pytest.mark.parametrize("method", sorted(SEARCHING))
def test_search_method_is_its_own_declared_options(method):
    settings = settings_of(method, search="method")
    for name, dimension in settings.dimensions.items():
        config = settings.config({name: dimension.choices[0] if dimension.choices else dimension.low})
        if method != "gap_mixture":
            assert f"{name}=" in config.method.method_options
            parse_options(method, METHODS[method].Options, config.method.method_options)


@pytest.mark.parametrize("method", sorted(set(METHODS) - SEARCHING))
def test_methods_without_declared_ranges_say_so(method):
    with pytest.raises(UserError, match="declares no search ranges"):
        settings_of(method, search="method")


def test_an_option_that_has_a_parameters_name_is_called_after_its_method():
    settings = settings_of("pmr", search="optimizer", space="pmr.momentum=0.1:0.5")
    config = settings.config({"momentum": 0.5, "pmr.momentum": 0.25})
    assert (config.optimization.momentum, config.method.method_options) == (0.5, "momentum=0.25")
    assert configured_values(settings.values)["pmr.momentum"] == 0.2


def test_parameters_become_configuration_or_options_of_the_method():
    settings = settings_of("ogm", search="method", space="learning_rate=0.01:0.1:log")
    config = settings.config({"alpha": 0.123456, "learning_rate": 0.0234567}, seed=3)
    assert (config.method.method_options, config.optimization.learning_rate, config.run.seed) == (
        "alpha=0.1235",
        0.02346,
        3,
    )


def test_what_space_fixes_is_part_of_the_settings():
    assert settings_of(space="gap_weight=0.3").values["gap_weight"] == 0.3
    settings = settings_of("pmr", search="optimizer", space="alpha=0.5")
    assert settings.values["method_options"] == "alpha=0.5"


def test_values_that_follow_from_others_follow_the_trials_parameters():
    settings = settings_of(search="form")
    assert settings.config({"loss_form": "abstract_v2"}).gap_mixture.balanced_fusion_weight == 1.0
    assert settings.config({"loss_form": "prose"}).gap_mixture.balanced_fusion_weight == 0.0


def test_other_methods_cannot_search_the_adaptive_losss_parameters():
    with pytest.raises(UserError, match="search=weights is about gap_mixture"):
        settings_of("ogm", search="weights")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test/accuracy", "nothing is ever chosen on test"),
        ("val/fun", "not known"),
        ("val/loss,val/loss", "two different"),
    ],
)
def test_objectives_that_are_refused(text, words):
    with pytest.raises(UserError, match=words):
        parse_objectives(text)


def test_directions():
    assert settings_of(objective="val/accuracy,val/gap_mean_abs").directions == ["maximize", "minimize"]
    assert settings_of(objective="val/accuracy,val/gap_mean_abs", pruner="median").pruner == "none"


def test_names_are_equal_for_equal_settings_whatever_the_machine():
    study = StudyConfig(space=None, search="weights")
    one, other = settings_of(), settings_of()
    assert automatic_name(study, one) == automatic_name(study, other)
    assert automatic_name(study, one) != automatic_name(study, settings_of(space="gap_weight=0.1:1"))
    assert automatic_name(study, one).startswith("digits-gap_mixture-weights-")


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("my.package:build", "my.package-build"),
        ("my clips (new).csv", "my-clips--new-"),
        (".csv", "-csv"),
        (f"{'long' * 40}.csv", "long" * 10),
    ],
)
def test_the_automatic_name_of_a_study_of_any_data_is_one_that_a_study_can_have(dataset, name):
    settings = settings_of()
    named = automatic_name(
        StudyConfig(search="weights"), replace(settings, values=settings.values | {"dataset": dataset})
    )
    assert named.startswith(f"{name}-gap_mixture-weights-")
    assert study_folder(named).name == named


def test_each_seed_has_its_own_pinned_warm_up():
    settings = replace(settings_of(), warmups={"0": "run of 0", "3": "run of 3"})
    assert settings.config({}).start.warmup_run == "run of 0"
    assert settings.config({"gap_weight": 0.1}, seed=3).start.warmup_run == "run of 3"
    assert settings.config({}, seed=4).start.warmup_run is None
    assert settings.digest() == settings_of().digest()  # the same study, whichever run it began from
    assert settings.differences(settings_of()) == []
    named = settings_of()
    named.values["warmup_run"] = "the user's"
    assert named.config({}).start.warmup_run == "the user's"
    assert named.config({}, seed=4).start.warmup_run is None  # that one is of seed 0


def test_code_is_part_of_what_a_study_is():
    assert replace(settings_of(), code="other").digest() != settings_of().digest()
    assert any("code" in item for item in replace(settings_of(), code="other").differences(settings_of()))


def test_options_of_the_adaptive_loss_may_be_given_as_text_too():
    study = StudyConfig(space=None, search="weights")
    values = apply_preset({"method": "gap_mixture", "method_options": "loss_form=prose"})
    settings = new_settings(study, values, threads=1, data_digest="0" * 64, given=set())
    assert settings.config({"gap_weight": 0.25}).gap_mixture.loss_form == "prose"


def test_differences_are_named():
    told = settings_of(sampler="random").differences(settings_of(space="gap_weight=0.3"))
    assert any("sampler random (not tpe)" in item for item in told)
    assert any("gap_weight=0.5 (not 0.3)" in item for item in told)
    assert settings_of().differences(settings_of()) == []


def test_drawn_values_have_four_digits_so_that_the_printed_line_is_the_same_run():
    assert rounded({"a": 0.123456789, "b": 3, "c": "x", "d": 12345.678}) == {
        "a": 0.1235,
        "b": 3,
        "c": "x",
        "d": 12350.0,
    }
    assert apply_preset({})["gap_weight"] == 0.5


def test_where_files_lie_does_not_make_another_study():
    one, other = settings_of(), settings_of()
    other.values["data_dir"] = "/elsewhere"
    assert one.differences(other) == []
    assert one.digest() == other.digest()
