"""The mixture's value object: posterior, densities, which component is balanced, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from mm_balance.functional.mixture import KINDS, Component, Mixture, fit_mixture


def mixture(*components, balanced=0, kind="two", **changes) -> Mixture:
    values = {"log_likelihood": 0.5, "bic": -10.0, "separated": True, "degenerate": False, "samples": 100} | changes
    return Mixture(kind, tuple(Component(*item) for item in components), balanced, **values)


PAPER = mixture((0.0, 0.1, 0.857), (0.5, 0.2, 0.143))  # the weights of Fig. 2
THREE = mixture((-0.6, 0.1, 0.1), (0.0, 0.1, 0.6), (0.4, 0.2, 0.3), balanced=1, kind="three")
ABSOLUTE = mixture((0.05, 0.05, 0.7), (0.5, 0.2, 0.3), kind="two_absolute")
ALL = [PAPER, THREE, ABSOLUTE]

components_strategy = st.lists(
    st.tuples(st.floats(-1, 1), st.floats(0.0032, 1), st.floats(0.01, 1)), min_size=2, max_size=3
)


def test_posterior_by_hand():
    # Equal weights and widths: the log odds are those of the distances. At 0.25, half way: 1/2.
    # At 0: exp(-(.5/.1)^2 / 2) = exp(-12.5), so q = 1 / (1 + exp(12.5)) = 3.7266e-6.
    fair = mixture((0.0, 0.1, 0.5), (0.5, 0.1, 0.5))
    assert fair.posterior_imbalanced(np.array([0.25, 0.0, 0.5])) == pytest.approx(
        [0.5, 3.7266e-6, 1 - 3.7266e-6], rel=1e-4
    )
    # At the common mean only weights and widths count: (.2 / .3) / (.2 / .3 + .8 / .1) = 1 / 13.
    nested = mixture((0.0, 0.1, 0.8), (0.0, 0.3, 0.2))
    assert nested.posterior_imbalanced(np.zeros(1)) == pytest.approx([1 / 13])


def test_density_by_hand():
    # N(0; 0, .1) = 3.989423, N(0; .5, .2) = 1.994711 exp(-3.125) = 0.087642: .857 * 3.989423 + .143 * .087642.
    assert PAPER.density_at_zero == pytest.approx(3.431468, abs=1e-5)
    np.testing.assert_allclose(PAPER.component_densities(np.zeros(1))[:, 0], [3.418935, 0.012533], atol=1e-5)


@pytest.mark.parametrize("given_mixture", ALL, ids=lambda item: item.kind)
def test_density_integrates_to_the_fitted_mass(given_mixture):
    points = np.linspace(-4, 4, 80_001)
    mass = float(np.trapezoid(given_mixture.density(points), points))
    # Mirrored, the mass that the Gaussians have below zero is missing: .7 Phi(-1) + .3 Phi(-2.5).
    missing = 0.7 * norm.cdf(-1) + 0.3 * norm.cdf(-2.5) if given_mixture.kind == "two_absolute" else 0.0
    assert mass == pytest.approx(1 - missing, abs=1e-6)
    np.testing.assert_allclose(given_mixture.component_densities(points).sum(axis=0), given_mixture.density(points))


def test_the_absolute_kind_is_symmetric():
    points = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(ABSOLUTE.density(points), ABSOLUTE.density(-points))
    np.testing.assert_allclose(ABSOLUTE.posterior_imbalanced(points), ABSOLUTE.posterior_imbalanced(-points))


@settings(max_examples=40, deadline=None)
@given(parts=components_strategy, gaps=st.lists(st.floats(-1, 1), min_size=1, max_size=20), balanced=st.integers(0, 1))
def test_posterior_agrees_with_scipy_and_sklearn(parts, gaps, balanced):
    total = sum(weight for *_, weight in parts)
    parts = [(mean, std, weight / total) for mean, std, weight in parts]
    kind = "three" if len(parts) == 3 else "two"
    gaps = np.array(gaps)
    found = mixture(*parts, balanced=balanced, kind=kind)
    logs = np.stack([np.log(weight) + norm.logpdf(gaps, mean, std) for mean, std, weight in parts])
    expected = np.exp(logsumexp(np.delete(logs, balanced, axis=0), axis=0) - logsumexp(logs, axis=0))
    posterior = found.posterior_imbalanced(gaps)
    assert ((posterior >= 0) & (posterior <= 1)).all()
    np.testing.assert_allclose(posterior, expected, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(found.density(gaps), np.exp(logsumexp(logs, axis=0)), rtol=1e-9, atol=1e-300)

    model = GaussianMixture(len(parts), covariance_type="diag")
    model.weights_ = np.array([weight for *_, weight in parts])
    model.means_ = np.array([[mean] for mean, *_ in parts])
    model.covariances_ = np.array([[std**2] for _, std, _ in parts])
    model.precisions_cholesky_ = 1 / np.sqrt(model.covariances_)
    np.testing.assert_allclose(posterior, 1 - model.predict_proba(gaps[:, None])[:, balanced], atol=1e-9)

    order = np.random.default_rng(len(gaps)).permutation(len(gaps))
    np.testing.assert_array_equal(found.posterior_imbalanced(gaps[order]), posterior[order])


@pytest.mark.parametrize("given_mixture", ALL, ids=lambda item: item.kind)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 1e-2)]
)
def test_tensors_keep_dtype_and_shape(given_mixture, dtype, tolerance):
    gaps = torch.linspace(-1, 1, 12).reshape(3, 4).to(dtype)
    found = given_mixture.posterior_imbalanced(gaps)
    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.shape) == (dtype, gaps.shape)
    expected = given_mixture.posterior_imbalanced(gaps.double().numpy())
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(found.double().numpy(), expected, atol=tolerance)


def test_numpy_shapes_and_far_tails():
    narrow = mixture((0.0, 0.0032, 0.9), (0.3, 0.0032, 0.1))
    assert narrow.posterior_imbalanced(np.float32(0.3)).shape == ()
    assert narrow.posterior_imbalanced(np.array([-1.0, 1.0])) == pytest.approx([0.0, 1.0])
    # Small posteriors are exact, not a rounded one minus one: log odds (.1^2 - .2^2) / (2 * .02^2) - ln 9 = -39.697.
    fair = mixture((0.0, 0.02, 0.9), (0.3, 0.02, 0.1))
    assert np.log(fair.posterior_imbalanced(np.array([0.1]))) == pytest.approx(-37.5 - np.log(9), rel=1e-9)


def test_merged_imbalanced_component_of_three():
    # Weight .1 + .3; mean (.1 * -.6 + .3 * .4) / .4 = .15; second moment (.1 * .37 + .3 * .2) / .4 = .2425;
    # variance .2425 - .0225 = .22.
    assert THREE.imbalanced.weight == pytest.approx(0.4)
    assert THREE.imbalanced.mean == pytest.approx(0.15)
    assert THREE.imbalanced.std == pytest.approx(0.22**0.5)
    assert THREE.balanced == Component(0.0, 0.1, 0.6)
    assert THREE.imbalanced_indices == (0, 2)
    assert PAPER.imbalanced == Component(0.5, 0.2, 0.143)


@pytest.mark.parametrize(
    ("given_mixture", "expected"),
    [
        # The known weakness: the balanced component is the wide one, so the far tail of the other sign counts as
        # balanced, and the posterior rises and falls again beyond the narrow peak.
        (mixture((0.0, 0.3, 0.6), (0.5, 0.1, 0.4)), False),
        # The other component is wider on both sides and centered alike.
        (mixture((0.0, 0.05, 0.8), (0.0, 0.4, 0.2)), True),
        (mixture((-0.6, 0.2, 0.2), (0.0, 0.1, 0.6), (0.6, 0.2, 0.2), balanced=1, kind="three"), True),
        (mixture((0.0, 0.05, 0.7), (0.5, 0.2, 0.3), kind="two_absolute"), True),
    ],
)
def test_monotone_flag(given_mixture, expected):
    assert given_mixture.posterior_monotone(np.linspace(-1, 1, 101)) is expected
    assert given_mixture.posterior_monotone(torch.linspace(-1, 1, 101)) is expected


def test_known_weakness_the_other_tail_counts_as_balanced():
    weak = mixture((0.0, 0.3, 0.6), (0.5, 0.1, 0.4))
    assert weak.posterior_imbalanced(np.array([-0.9, 0.5])) == pytest.approx([0.0, 0.89], abs=0.01)


def test_monotone_looks_at_the_observed_range_only_and_up_to_a_tolerance():
    # The posterior rises from 0 to .5 and falls beyond about .56; below zero it falls from about 1e-5.
    weak = mixture((0.0, 0.3, 0.6), (0.5, 0.1, 0.4))
    assert weak.posterior_monotone(np.array([0.0, 0.2, 0.5]))
    assert not weak.posterior_monotone(np.array([0.2, 0.9]))
    assert weak.posterior_monotone(np.array([np.nan, 0.2, 0.5, np.inf]))
    assert not weak.posterior_monotone(np.array([-0.9, 0.0]))
    assert weak.posterior_monotone(np.array([-0.9, 0.0]), tolerance=0.01)
    assert weak.posterior_monotone(np.array([]))


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip_is_exact(kind):
    generator = np.random.default_rng(3)
    gaps = np.clip(np.concatenate([generator.normal(0, 0.1, 300), generator.normal(0.5, 0.2, 100)]), -1, 1)
    for fitted in (fit_mixture(gaps, kind=kind), fit_mixture(gaps[:3], kind=kind)):
        assert Mixture.from_json(fitted.to_json()) == fitted
        assert Mixture.from_json(json.loads(fitted.to_json())) == fitted
    assert json.loads(PAPER.to_json())["imbalanced"] == {"mean": 0.5, "std": 0.2, "weight": 0.143}
