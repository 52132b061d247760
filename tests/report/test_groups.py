"""Which settings tell runs apart, and what a row is compared with."""

import pytest

from mm_balance.errors import UserError
from mm_balance.report.groups import (
    baseline_of,
    check_keys,
    default_baseline,
    group,
    mixed_settings,
    parse_baseline,
    telling_keys,
)
from mm_balance.report.runs import collect
from tests.report.examples import example_records, record


def runs(records):
    return collect(records).runs


def test_keys_are_the_settings_that_tell_runs_apart_and_no_others():
    records = [
        record("concat", 1, settings={"corruption": "0.0", "image_size": "36"}),
        record("concat", 2, settings={"corruption": "0.0", "image_size": "36"}),
        record("gce", 1, settings={"corruption": "0.4", "image_size": "36"}, parameters={"method/q": "0.7"}),
        record("gce", 1, settings={"corruption": "0.4", "image_size": "36"}, parameters={"method/q": "0.5"}),
    ]
    # The method follows from the corruption here, the image size never differs, and the seed is no key.
    assert telling_keys(runs(records)) == ["corruption", "q"]


def test_one_kind_of_run_is_one_row_named_by_its_method():
    assert telling_keys(runs([record("gce", 1), record("gce", 2)])) == ["method"]


def test_of_the_same_settings_and_seed_the_newest_run_counts():
    newest, older = record("gce", 1), record("gce", 1)
    (found,) = group(runs([newest, older]), ["method"])
    assert [run.run_id for run in found.all_runs] == [newest.run_id]
    assert found.repeated == 1


def test_coarser_rows_average_over_their_runs_and_say_over_what():
    records = [
        record("gce", 1, settings={"corruption": "0.0"}, metrics={"val/accuracy": 0.9}),
        record("gce", 1, settings={"corruption": "0.4"}, metrics={"val/accuracy": 0.7}),
        record("gce", 2, settings={"corruption": "0.0"}, metrics={"val/accuracy": 0.8}),
    ]
    groups = group(runs(records), ["method"])
    assert groups[0].values("val/accuracy") == {1: pytest.approx(0.8), 2: 0.8}
    assert mixed_settings(groups) == ["corruption"]


def test_a_row_is_compared_with_the_control_on_the_same_data():
    groups = group(runs(example_records()), ["corruption", "method"])
    wanted = default_baseline(groups)
    assert wanted == {"method": "concat_unimodal"}
    ours = next(item for item in groups if item.key == {"corruption": "0.4", "method": "gap_mixture"})
    base = baseline_of(ours, groups, wanted, metric="val/accuracy")
    assert base.key == {"corruption": "0.4", "method": "concat_unimodal"}
    assert baseline_of(base, groups, wanted, metric="val/accuracy") is None


def test_of_several_controls_the_one_that_is_most_alike_then_the_best_on_validation():
    def run(method, weight, accuracy, rate="0.1", seed=1):
        settings = {"learning_rate": rate}
        return record(
            method, seed, settings=settings, parameters={"method/weight": weight}, metrics={"val/accuracy": accuracy}
        )

    records = [
        run("gce", "4", 0.9), run("concat_unimodal", "1", 0.7), run("concat_unimodal", "2", 0.8),
        run("concat_unimodal", "2", 0.99, rate="0.2"),
    ]  # fmt: skip
    groups = group(runs(records), ["method", "weight", "learning_rate"])
    ours = next(item for item in groups if item.key["method"] == "gce")
    base = baseline_of(ours, groups, {"method": "concat_unimodal"}, metric="val/accuracy")
    assert base.key == {"method": "concat_unimodal", "weight": "2", "learning_rate": "0.1"}


def test_runs_on_other_data_are_no_baseline_though_the_keys_do_not_show_it():
    def run(method, fraction):
        return record(method, 1, settings={"train_fraction": fraction}, metrics={"val/accuracy": 0.5})

    # The method tells these apart, so the share of the data is no key.
    groups = group(runs([run("gap_mixture", "1.0"), run("concat_unimodal", "0.3")]), ["method"])
    ours = next(item for item in groups if item.key["method"] == "gap_mixture")
    assert baseline_of(ours, groups, {"method": "concat_unimodal"}, metric="val/accuracy") is None


def test_baselines_need_a_setting_and_a_value():
    assert parse_baseline("method=concat, fusion=sum") == {"method": "concat", "fusion": "sum"}
    for text in ("concat", "method=", "=concat", "method=concat,"):
        with pytest.raises(UserError, match="setting=value"):
            parse_baseline(text)


def test_unknown_keys_are_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"'weigth'; they have: command, dataset, method"):
        check_keys(["weigth"], runs([record()]))


def test_rows_are_sorted_by_number_where_values_are_numbers():
    records = [record("gce", 1, settings={"corruption": value}) for value in ("0.4", "0.05", "0.1")]
    groups = group(runs(records), ["corruption"])
    assert [item.key["corruption"] for item in groups] == ["0.05", "0.1", "0.4"]
