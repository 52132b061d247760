"""Search spaces: what is declared, how `space` changes it, and what is refused."""

import pytest

from mm_balance.config import SEARCHES, Dimension, options, search_space
from mm_balance.config.search import declared_dimension, parse_space
from mm_balance.errors import UserError

KNOWN = {name: option for name, option in options().items() if option.search is not None}


def test_the_named_searches_hold_what_the_contract_says():
    held = {
        name: {item.name for item in KNOWN.values() if item.searched_by in groups} for name, groups in SEARCHES.items()
    }
    assert held["anneal"] == {"anneal", "anneal_start", "anneal_end", "refit_every"}
    assert held["weights"] == {"gap_weight", "shift_weight", "hard_weight", "balanced_fusion_weight", "unimodal_weight"}
    assert held["anneal_and_weights"] == held["anneal"] | held["weights"]
    assert held["form"] == {"loss_form", "posterior_weighting", "gap_gradient", "mixture"}


def test_declared_ranges_lie_within_what_the_parameter_allows():
    for option in KNOWN.values():
        if len(option.search) == 3 and option.search[2] in ("log", "linear"):
            low, high, _ = option.search
            assert low < high
            assert option.minimum is None or low >= option.minimum
            assert option.maximum is None or high <= option.maximum
        elif option.choices:
            assert set(option.search) <= set(option.choices)


def test_space_narrows_widens_adds_and_fixes():
    searched, fixed = search_space(
        ["gap_weight", "anneal"],
        "gap_weight=0.01:2:log,anneal=cosine|linear,refit_every=1:4,hard_weight=0.7",
        KNOWN,
        {},
    )
    assert searched == {
        "gap_weight": Dimension("gap_weight", 0.01, 2.0, log=True),
        "anneal": Dimension("anneal", choices=("cosine", "linear")),
        "refit_every": Dimension("refit_every", 1, 4),
    }
    assert fixed == {"hard_weight": 0.7}


def test_a_single_value_takes_a_dimension_out_of_the_search():
    searched, fixed = search_space(["gap_weight", "anneal"], "anneal=cosine", KNOWN, {})
    assert list(searched) == ["gap_weight"]
    assert fixed == {"anneal": "cosine"}


def test_what_the_user_has_set_is_not_searched():
    searched, _ = search_space(["gap_weight", "anneal"], None, KNOWN, {"anneal": "linear"}, given={"anneal"})
    assert list(searched) == ["gap_weight"]


def test_a_declared_range_is_widened_to_what_is_configured():
    assert declared_dimension(KNOWN["refit_every"], 20) == Dimension("refit_every", 1, 20)
    assert declared_dimension(KNOWN["gap_weight"], 9.0).high == 9.0
    assert declared_dimension(KNOWN["gap_weight"], 0.0).low == 0.05  # a logarithm cannot hold it
    assert declared_dimension(KNOWN["batch_size"], 48).choices == (16, 32, 64, 128, 48)


def test_dimensions_are_written_as_they_are_read():
    for option in KNOWN.values():
        dimension = declared_dimension(option, None)
        assert parse_space(str(dimension), KNOWN) == {option.name: dimension}


def test_contains():
    assert Dimension("x", 1, 4).contains(4)
    assert not Dimension("x", 1, 4).contains(5)
    assert Dimension("x", choices=("a", "b")).contains("b")
    assert not Dimension("x", choices=("a", "b")).contains("c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gap_weigth=1:2", "did you mean gap_weight"),
        ("gap_weight", "not understood"),
        ("gap_weight=", "not understood"),
        ("gap_weight=1:2,gap_weight=3", "given twice"),
        ("gap_weight=2:1", "first number must be the smaller"),
        ("gap_weight=0:1:log", "above 0 for log"),
        ("gap_weight=1:2:cubic", "not understood"),
        ("gap_weight=-1:2", "gap_weight=-1"),
        ("gap_weight=a:b", "not a number"),
        ("anneal=cosine:linear", "a|b for choices"),
        ("anneal=cosine|sine", "anneal=sine"),
        ("anneal=cosine|cosine", "names a value twice"),
        ("refit_every=1.5:3", "whole number"),
        ("learning_rate=auto:1", "is not a range"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(text, words):
    with pytest.raises(UserError) as raised:
        parse_space(text, KNOWN)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_to_search_is_an_error():
    with pytest.raises(UserError, match="nothing is left"):
        search_space([], None, KNOWN, {})
