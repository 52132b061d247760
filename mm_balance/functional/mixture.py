"""The Gaussian mixture of modality gaps and the posterior of being imbalanced.

Source: arXiv 2510.21797v1, Eq. 8 and 9. Which component is "balanced" is our rule: the one with the smaller second
moment about zero, mean^2 + std^2 (a mean near zero alone is ambiguous once both means are near zero). The kinds
``two_absolute`` and ``three`` are ours.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import asdict, dataclass
from typing import TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

VARIANCE_FLOOR = 1e-5
"""Added to every variance (scikit-learn's ``reg_covar``): no std below 0.0032, no component density above 126."""

MINIMUM_SAMPLES = 10
MINIMUM_STD = 1e-6
KINDS = {"two": 2, "two_absolute": 2, "three": 3}
RANDOM_STARTS = 4
LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)

Values = TypeVar("Values", Tensor, NDArray[np.float64])


@dataclass(frozen=True)
class Component:
    """One Gaussian: mean and standard deviation in units of the gap, weight in [0, 1]."""

    mean: float
    std: float
    weight: float

    @property
    def second_moment(self) -> float:
        """About zero: mean^2 + std^2."""
        return self.mean**2 + self.std**2


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

    Attributes:
        kind: ``two``, ``two_absolute`` (fitted to the absolute gap) or ``three``.
        components: ordered by mean; a single one where the fit is degenerate.
        balanced_index: place of the balanced component.
        log_likelihood: mean per sample (0 where degenerate).
        bic: Bayesian information criterion, smaller is better (0 where degenerate).
        separated: the mixture beats a single Gaussian by BIC. A report: the fit is used either way.
        degenerate: non-finite, too few or constant gaps: one component, posterior 0 everywhere.
        samples: number of gaps fitted to.
    """

    kind: str
    components: tuple[Component, ...]
    balanced_index: int
    log_likelihood: float
    bic: float
    separated: bool
    degenerate: bool
    samples: int

    @property
    def balanced(self) -> Component:
        """The component with the smallest second moment about zero."""
        return self.components[self.balanced_index]

    @property
    def imbalanced(self) -> Component:
        """The other one; with ``three`` the two others merged by moments; of weight 0 where degenerate."""
        others = [item for place, item in enumerate(self.components) if place != self.balanced_index]
        weight = sum(item.weight for item in others)
        if weight <= 0:
            return Component(self.balanced.mean, self.balanced.std, 0.0)
        mean = sum(item.weight * item.mean for item in others) / weight
        moment = sum(item.weight * item.second_moment for item in others) / weight
        return others[0] if len(others) == 1 else Component(mean, math.sqrt(max(moment - mean**2, 0.0)), weight)

    @overload
    def posterior_imbalanced(self, gaps: Tensor) -> Tensor: ...
    @overload
    def posterior_imbalanced(self, gaps: NDArray) -> NDArray[np.float64]: ...
    def posterior_imbalanced(self, gaps):
        """Posterior probability of not being balanced (Eq. 9).

        Args:
            gaps: any shape, signed gaps (for ``two_absolute`` too). A tensor stays on its device; no host sync.

        Returns:
            The same shape and container, in [0, 1]; 0 everywhere where the fit is degenerate.
        """
        if isinstance(gaps, Tensor):
            return self._posterior(gaps)
        return self._posterior(torch.from_numpy(np.ascontiguousarray(gaps, dtype=np.float64))).numpy()

    def component_densities(self, x: NDArray) -> NDArray[np.float64]:
        """Weighted density of every component at ``x`` (points,) on the signed axis: ``(components, points)``.

        For ``two_absolute`` half of the fitted density at abs(x), mirrored, so that it integrates to the mass that the
        fitted Gaussians have above zero.
        """
        x = np.asarray(x, dtype=np.float64)
        logs = self._log_joint(torch.from_numpy(np.atleast_1d(self._fitted(x)))).numpy()
        return np.exp(logs) * (0.5 if self.kind == "two_absolute" else 1.0)

    def density(self, x: NDArray) -> NDArray[np.float64]:
        """Density of the mixture at ``x`` (points,), on the signed axis (Eq. 8)."""
        return self.component_densities(x).sum(axis=0)

    @property
    def density_at_zero(self) -> float:
        """Density at gap 0, the number the paper follows in Fig. 3."""
        return float(self.density(np.zeros(1))[0])

    def posterior_monotone(self, gaps: Tensor | NDArray, points: int = 201) -> bool:
        """Whether the posterior never falls as the absolute gap grows, on either side, over the observed range."""
        values = np.asarray(gaps, dtype=np.float64)
        values = values[np.isfinite(values)]
        if self.degenerate or not len(values):
            return True
        sides = (np.linspace(0.0, end, points) for end in (values.min(), values.max()) if end != 0)
        return all(bool((np.diff(self.posterior_imbalanced(side)) >= -1e-9).all()) for side in sides)

    def to_json(self) -> str:
        """All fields as JSON text; ``from_json`` gives an equal mixture."""
        return json.dumps(asdict(self) | {"balanced": asdict(self.balanced), "imbalanced": asdict(self.imbalanced)})

    @classmethod
    def from_json(cls, text: str) -> Mixture:
        """The inverse of ``to_json``."""
        values = json.loads(text)
        values = {name: value for name, value in values.items() if name not in ("balanced", "imbalanced")}
        return cls(**{**values, "components": tuple(Component(**item) for item in values["components"])})

    def _fitted(self, gaps: Values) -> Values:
        return abs(gaps) if self.kind == "two_absolute" else gaps  # type: ignore[return-value]

    def _log_joint(self, values: Tensor) -> Tensor:
        """log(weight) + log density of every component, ``(components, *values.shape)``."""
        rows = [
            math.log(max(item.weight, 1e-300)) - math.log(item.std) - LOG_SQRT_TWO_PI
            - 0.5 * ((values - item.mean) / item.std) ** 2
            for item in self.components
        ]  # fmt: skip
        return torch.stack(rows)

    def _posterior(self, gaps: Tensor) -> Tensor:
        if self.degenerate:
            return torch.zeros_like(gaps)
        logs = self._log_joint(self._fitted(gaps))
        return (1 - (logs[self.balanced_index] - torch.logsumexp(logs, dim=0)).exp()).clamp(0.0, 1.0)


def fit_mixture(gaps: Tensor | NDArray, *, kind: str = "two", seed: int = 0) -> Mixture:
    """Fit the mixture (Eq. 8) by expectation-maximisation; the best likelihood of several starts wins.

    The starts: k-means, random data points, and a narrow component at one of several quantiles beside a wide one. K-means
    alone sticks in a poor optimum when a narrow peak sits on a broad component, which is what late refits look like.

    Args:
        gaps: ``(samples,)``, in [-1, 1].
        kind: ``two``, ``two_absolute`` (on the absolute gap) or ``three``.
        seed: of the random starts; the global generators are not touched.

    Returns:
        The fit; where gaps are non-finite, fewer than 10, or of a standard deviation below 1e-6, a single component that
        is marked degenerate.

    Raises:
        ValueError: an unknown kind, or gaps that are not one-dimensional.
    """
    if kind not in KINDS:
        raise ValueError(f"mixture={kind} is not known; give one of {', '.join(KINDS)}")
    values = np.asarray(gaps.detach().cpu() if isinstance(gaps, Tensor) else gaps, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"gaps must be one-dimensional, got shape {values.shape}")
    if kind == "two_absolute":
        values = np.abs(values)
    if len(values) < MINIMUM_SAMPLES or not np.isfinite(values).all() or values.std() < MINIMUM_STD:
        return _degenerate(values, kind)
    column = values.reshape(-1, 1)
    best = max(_fits(column, KINDS[kind], seed), key=lambda fitted: fitted.lower_bound_)
    order = np.argsort(best.means_[:, 0], kind="stable")
    components = tuple(
        Component(float(best.means_[place, 0]), float(math.sqrt(best.covariances_[place, 0])), float(best.weights_[place]))
        for place in order
    )
    bic = float(best.bic(column))
    return Mixture(
        kind=kind,
        components=components,
        balanced_index=min(range(len(components)), key=lambda place: components[place].second_moment),
        log_likelihood=float(best.score(column)),
        bic=bic,
        separated=bic < _single_bic(values),
        degenerate=False,
        samples=len(values),
    )


def _fits(column: NDArray, count: int, seed: int) -> list[GaussianMixture]:
    settings = {
        "n_components": count,
        "covariance_type": "diag",
        "reg_covar": VARIANCE_FLOOR,
        "tol": 1e-5,
        "max_iter": 300,
    }
    models = [GaussianMixture(**settings, init_params="kmeans", random_state=seed)]
    generator = np.random.default_rng(seed)
    spread = float(column.std())
    for _ in range(RANDOM_STARTS):
        means = generator.choice(column[:, 0], size=count, replace=False).reshape(-1, 1)
        models.append(_start(settings, means, np.full(count, spread)))
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        centre = float(np.quantile(column, quantile))
        others = np.linspace(column.min(), column.max(), count + 1)[1:-1] if count > 2 else [column.mean()]
        means = np.array([centre, *others])[:count].reshape(-1, 1)
        models.append(_start(settings, means, np.array([0.1 * spread] + [spread] * (count - 1))))
    with warnings.catch_warnings():
        # A start that has not converged after 300 steps still competes by its likelihood.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [model.fit(column) for model in models]


def _start(settings: dict, means: NDArray, stds: NDArray) -> GaussianMixture:
    count = len(means)
    return GaussianMixture(
        **settings,
        weights_init=np.full(count, 1 / count),
        means_init=means,
        precisions_init=1 / np.maximum(stds.reshape(-1, 1) ** 2, VARIANCE_FLOOR),
        random_state=0,
    )


def _single_bic(values: NDArray) -> float:
    """BIC of one Gaussian with the same variance floor (two free parameters)."""
    variance = float(values.var()) + VARIANCE_FLOOR
    log_likelihood = -0.5 * math.log(2 * math.pi * variance) - 0.5 * float(values.var()) / variance
    return 2 * math.log(len(values)) - 2 * len(values) * log_likelihood


def _degenerate(values: NDArray, kind: str) -> Mixture:
    finite = values[np.isfinite(values)]
    mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (0.0, 0.0)
    only = Component(mean, max(std, math.sqrt(VARIANCE_FLOOR)), 1.0)
    return Mixture(kind, (only,), 0, 0.0, 0.0, separated=False, degenerate=True, samples=len(values))
