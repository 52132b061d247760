"""The iteration against scikit-learn's, and what a histogram keeps."""

import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mm_balance.functional.expectation_maximization import BLOCK, Fits, Points, converge, one_step

FLOOR = 1e-5
STARTS = Fits(
    np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]),
    np.array([[-0.2, 0.4], [0.0, 0.5], [0.3, -0.9]]),
    np.array([[0.04, 0.09], [0.0004, 0.25], [0.01, 0.01]]),
)


def values(samples=1200, seed=0):
    generator = np.random.default_rng(seed)
    return np.sort(np.concatenate([generator.normal(0, 0.05, samples // 2), generator.normal(0.3, 0.3, samples // 2)]))


def one_of_scikit_learn(data, start):
    model = GaussianMixture(
        2, covariance_type="diag", reg_covar=FLOOR, tol=0, max_iter=1, weights_init=STARTS.weights[start],
        means_init=STARTS.means[start][:, None], precisions_init=1 / STARTS.variances[start][:, None],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(data[:, None])


def test_a_step_of_several_starts_at_once_is_that_of_scikit_learn():
    data = values(2 * BLOCK + 100)  # more than one block
    found, log_likelihood = one_step(Points.all(data), STARTS, FLOOR)
    for start in range(3):
        other = one_of_scikit_learn(data, start)
        assert found.weights[start] == pytest.approx(other.weights_, rel=1e-9)
        assert found.means[start] == pytest.approx(other.means_[:, 0], rel=1e-9, abs=1e-12)
        assert found.variances[start] == pytest.approx(other.covariances_[:, 0], rel=1e-8)
        density = sum(
            weight * norm.pdf(data, mean, variance**0.5)
            for weight, mean, variance in zip(
                STARTS.weights[start], STARTS.means[start], STARTS.variances[start], strict=True
            )
        )
        assert log_likelihood[start] == pytest.approx(np.log(density).mean(), rel=1e-9)


def test_weights_of_points_count_as_repetitions():
    data, times = np.linspace(-0.5, 0.9, 40), np.arange(1, 41)
    weighted = Points.of(data, data**2, times / times.sum())
    found, score = one_step(weighted, STARTS, FLOOR)
    repeated, expected = one_step(Points.all(np.repeat(data, times)), STARTS, FLOOR)
    assert score == pytest.approx(expected)
    assert found.means == pytest.approx(repeated.means)
    assert found.variances == pytest.approx(repeated.variances)


def test_a_histogram_keeps_the_moments_and_bounds_the_likelihood_from_below():
    data = values(50_000)
    points, coarse, fine = Points.all(data), Points.histogram(data, 50), Points.histogram(data, 4096)
    assert fine.powers.shape[1] <= 4096
    for few in (coarse, fine):
        assert few.moments.sum(axis=0) == pytest.approx(points.moments.sum(axis=0), rel=1e-12)
    exact, below, near = (one_step(item, STARTS, FLOOR)[1] for item in (points, coarse, fine))
    assert (below <= exact).all()
    assert (below < exact - 1e-4).any()
    assert (near <= exact + 1e-12).all()
    assert near == pytest.approx(exact, abs=2e-5)
    assert Points.histogram(data[:30], 30).powers[1].tolist() == data[:30].tolist()
    constant = Points.histogram(np.full(100, 0.25), 10)
    assert (constant.powers[1].tolist(), constant.moments[:, 0].tolist()) == ([0.25], [1.0])


def test_convergence_arrives_where_thousands_of_plain_steps_do():
    data = values()
    points, plain = Points.all(data), STARTS
    for _ in range(4000):
        plain, _ = one_step(points, plain, FLOOR)
    _, expected = one_step(points, plain, FLOOR)
    best, found = converge(points, STARTS, floor=FLOOR, tolerance=1e-7, most_steps=300)
    assert found[:2] == pytest.approx(expected[:2], abs=1e-7)
    assert best.means[:2] == pytest.approx(plain.means[:2], abs=1e-4)
    assert found[2] > expected[2] + 0.1  # a jump may lead out of a poor optimum, never into a poorer one
    _, of_best = one_step(points, best, FLOOR)
    assert found.tolist() == of_best.tolist()
