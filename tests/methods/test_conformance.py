"""What every registered method must keep to, whatever it does: the public suite, for each of them."""

import pytest
import torch

from analysis.methods_page import REQUIRED
from mm_balance.errors import UserError
from mm_balance.functional.gap import true_class_probability
from mm_balance.methods import METHODS, build_method
from mm_balance.testing import (
    MethodConformance,
    boundary_settings,
    clock_of,
    first_batch,
    planned,
    relabeled,
    saturate,
    update,
)
from tests.helpers.stages import make_stage

EARLY = {
    "opm": {"start_epoch": 0},
    "opm_ogm": {"start_epoch": 0},
    "sample_valuation": {"start_epoch": 1},
    "diagnose_relearn": {"every": 1},
    "greedy": {"start_epoch": 0, "steps": 2},
    "g_blending": {"horizon": 2},
    "umt": {"teacher_epochs": 1},
    "posterior_discount": {"start_epoch": 1, "persistence": 1},
    "loss_mixture": {"start_epoch": 1},
    "gce": {"start_epoch": 0},
    "reconboost": {"phase_epochs": 1},
    **REQUIRED,
}
"""Options that a method cannot do without, or that let it do its work within a tiny stage."""

STILL = {"reconboost": ("encoders.visual.", "fusion.beta")}
"""What does not learn in the first epoch."""

for _name, _method in METHODS.items():
    _facts = {"method": _method, "settings": EARLY.get(_name, {}), "frozen_prefixes": STILL.get(_name, ())}
    _class = type(f"Test_{_name}", (MethodConformance,), _facts)
    globals()[_class.__name__] = _class
del MethodConformance, _class


def test_unknown_methods_are_refused():
    with pytest.raises(UserError, match="method=foo is not known; give one of concat"):
        build_method("foo", {}, ("audio", "visual"), 10)


def test_what_the_suite_calls_certain_has_probabilities_of_exactly_0_and_1():
    model = make_stage("concat").model
    saturate(model)
    batch = first_batch(make_stage("concat"))
    nobody, first = (relabeled(model, batch, first_knows=first_knows) for first_knows in (False, True))
    with torch.no_grad():
        output = model(batch.inputs)
    for logits in output.unimodal.values():
        assert true_class_probability(logits, nobody.labels).eq(0).all()
    known, unknown = (true_class_probability(logits, first.labels) for logits in output.unimodal.values())
    assert known.eq(1).any()
    assert unknown.eq(0).all()
    assert true_class_probability(output.fused, first.labels).eq(1).any()


def test_the_suite_runs_options_at_the_ends_of_what_is_searched_and_of_what_is_allowed():
    found = list(boundary_settings(METHODS["amco"].Options))
    assert found == [
        *({"threshold": value} for value in (0.4, 0.7, 0.0, 1.0)),
        *({"limit": value} for value in (0.3, 4.0, 1e-6)),
    ]
    assert {"stretch": False} in list(boundary_settings(METHODS["lfm"].Options))
    assert {"divergence": "scalars"} in list(boundary_settings(METHODS["mbsd"].Options))


def test_adaptive_without_its_terms_is_the_control():
    """gap = shift = hard = balanced fusion = 0 leaves fused plus unimodal losses: the same update, bit for bit."""
    plain = make_stage("concat_unimodal")
    _, batches = planned(plain)
    stage = make_stage("gap_mixture", gap_weight=0.0, shift_weight=0.0, hard_weight=0.0)
    planned(stage)
    for batch in batches[:3]:
        assert float(update(stage, batch).total.detach()) == pytest.approx(
            float(update(plain, batch).total.detach()), rel=1e-5
        )


def test_current_and_refit_posteriors_differ_only_in_when_they_are_taken():
    """Right after a refresh, in eval mode, both sources give the same loss."""
    losses = []
    for source in ("refit", "current"):
        stage = make_stage("gap_mixture", posterior_source=source)
        _, batches = planned(stage)
        stage.model.eval()
        losses.append(float(stage.method.loss(stage.model, batches[0], clock_of(stage)).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
