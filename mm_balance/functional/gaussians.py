"""Gaussian mixture of the modality gap: densities and the posterior of being imbalanced.

Source: arXiv 2510.21797v1, Eq. 8 and 9. The fit is in ``mm_balance.functional.mixture``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRID_POINTS = 512
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
        """Second moment about zero: mean^2 + std^2."""
        return self.mean**2 + self.std**2


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

    Attributes:
        kind: ``two``, ``two_absolute`` (fitted to the absolute gap) or ``three``.
        components: ordered by mean (``three``: from visual-dominant to audio-dominant if audio leads the gap); a single
            one if the fit is degenerate.
        balanced_index: index of the balanced component.
        log_likelihood: mean per sample (0 if degenerate).
        bic: Bayesian information criterion, smaller is better (0 if degenerate).
        separated: the mixture beats a single Gaussian with the same variance floor by BIC. Informative only: the fit is used
            either way.
        degenerate: non-finite, too few or constant gaps: one component, posterior 0 everywhere.
        samples: number of gaps in the fit.
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
    def imbalanced_indices(self) -> tuple[int, ...]:
        """Indices of all other components."""
        return tuple(index for index in range(len(self.components)) if index != self.balanced_index)

    @property
    def imbalanced(self) -> Component:
        """The other component; with ``three``, the other two merged by moments; with weight 0 if degenerate."""
        others = [self.components[index] for index in self.imbalanced_indices]
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
        """Return the posterior probability of not being balanced (Eq. 9).

        Args:
            gaps: any shape, signed gaps (also for ``two_absolute``). A tensor stays on its device; no host sync.

        Returns:
            The same shape and container, in [0, 1]; 0 everywhere if the fit is degenerate, NaN where a gap is NaN.
            Tensors keep their dtype; anything else becomes a float64 array.
        """
        if isinstance(gaps, Tensor):
            return self._posterior(gaps)
        return self._posterior(torch.from_numpy(np.array(gaps, dtype=np.float64))).numpy()

    def component_densities(self, x: NDArray) -> NDArray[np.float64]:
        """Return the weighted density of every component at ``x`` (points,) on the signed axis: ``(components, points)``.

        For ``two_absolute``, half of the fitted density at abs(x) on each side, which integrates to the mass of the fitted
        Gaussians above zero (their part below zero is not added).
        """
        x = np.asarray(x, dtype=np.float64)
        logs = self._log_joint(torch.from_numpy(np.atleast_1d(self._fitted(x)))).numpy()
        return np.exp(logs) * (0.5 if self.kind == "two_absolute" else 1.0)

    def density(self, x: NDArray) -> NDArray[np.float64]:
        """Return the density of the mixture at ``x`` (points,) on the signed axis (Eq. 8)."""
        return self.component_densities(x).sum(axis=0)

    @property
    def density_at_zero(self) -> float:
        """Density at gap 0, the quantity tracked in the paper's Fig. 3."""
        return float(self.density(np.zeros(1))[0])

    def posterior_monotone(self, gaps: Tensor | NDArray, *, tolerance: float = 1e-9) -> bool:
        """Return whether the posterior never decreases as the absolute gap grows, over the observed range of each sign.

        Args:
            gaps: any shape, signed; NaN and infinity are ignored. The range of each sign is checked on 512 points.
            tolerance: how far the posterior may lie below its highest value at a smaller gap.

        Returns:
            True if the fit is degenerate, because its posterior is constant.
        """
        values = as_array(gaps)
        values = values[np.isfinite(values)]
        for side, sign in ((values[values >= 0], 1.0), (-values[values <= 0], -1.0)):
            if len(side):
                posterior = self.posterior_imbalanced(sign * np.linspace(side.min(), side.max(), GRID_POINTS))
                if (np.maximum.accumulate(posterior) - posterior).max() > tolerance:
                    return False
        return True

    def to_json(self) -> str:
        """Serialize all fields as JSON; ``from_json`` restores an equal mixture."""
        return json.dumps(asdict(self) | {"balanced": asdict(self.balanced), "imbalanced": asdict(self.imbalanced)})

    @classmethod
    def from_json(cls, text: str | Mapping) -> Mixture:
        """Restore a mixture from the output of ``to_json``, as text or parsed.

        Raises:
            ValueError, KeyError, TypeError: the text does not describe a mixture.
        """
        values = json.loads(text) if isinstance(text, str) else text
        values = {name: value for name, value in values.items() if name not in ("balanced", "imbalanced")}
        return cls(**{**values, "components": tuple(Component(**item) for item in values["components"])})

    def _fitted(self, gaps: Values) -> Values:
        return abs(gaps) if self.kind == "two_absolute" else gaps  # type: ignore[return-value]

    def _log_joint(self, values: Tensor) -> Tensor:
        """Return log(weight) + log density of every component, ``(components, *values.shape)``."""
        rows = [
            math.log(max(item.weight, 1e-300)) - math.log(item.std) - LOG_SQRT_TWO_PI
            - 0.5 * ((values - item.mean) / item.std) ** 2
            for item in self.components
        ]  # fmt: skip
        return torch.stack(rows)

    def _posterior(self, gaps: Tensor) -> Tensor:
        if self.degenerate:
            return torch.zeros_like(gaps)
        # Half precision is coarser than the narrowest component.
        logs = self._log_joint(self._fitted(gaps.float() if gaps.element_size() < 4 else gaps))
        others = torch.stack([logs[index] for index in self.imbalanced_indices])
        # Log-sum-exp over the others, rather than one minus the balanced posterior, keeps small posteriors exact.
        posterior = (torch.logsumexp(others, dim=0) - torch.logsumexp(logs, dim=0)).exp()
        return posterior.clamp(0.0, 1.0).to(gaps.dtype)


def as_array(gaps: Tensor | NDArray) -> NDArray[np.float64]:
    """Convert gaps on any device to a float64 array of the same shape."""
    return np.asarray(gaps.detach().cpu().double() if isinstance(gaps, Tensor) else gaps, dtype=np.float64)
