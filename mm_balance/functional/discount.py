"""Doubt: how likely one modality of a sample is broken, from the probabilities that training has seen.

Ours, not the paper's. The paper multiplies losses by 1 + gamma q, with q the posterior of the imbalanced component; a doubt turns this
round, to 1 - q, per modality. In gradient, the discounted unimodal loss equals soft bootstrapping of Arazo et al., ICML 2019, arXiv
1904.11238; a mixture that tells bad samples from good ones is the idea of DivideMix, ICLR 2020, arXiv 2002.07394.

Tables of probabilities are ``(modalities, samples)``; ``UNSEEN`` stands for a sample that was not seen (a number, so that a
checkpoint can be compared and checked for non-finite values).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mm_balance.functional.mixture import fit_mixture

FLOOR = 1e-6
"""Smallest probability whose logarithm is taken."""
UNSEEN = -1.0
"""In place of the probability of a sample that was not seen."""


def running_mean(running: Tensor, latest: Tensor, decay: float) -> Tensor:
    """Update running means of probabilities, ``decay * running + (1 - decay) * latest``.

    A sample's first value is its mean; a sample that was not seen lately keeps its mean.

    Args:
        running: ``(modalities, samples)``, ``UNSEEN`` = never.
        latest: ``(modalities, samples)``, ``UNSEEN`` = not since the last update.
        decay: in [0, 1).
    """
    old = torch.where(running < 0, latest, running)
    new = torch.where(latest < 0, old, latest)
    return decay * old + (1 - decay) * new


def log_lead(probabilities: Tensor) -> Tensor:
    """Return how far each modality is ahead of the best of the others, as a log ratio of probabilities, centered by its median.

    What a modality lags on the whole data set is no property of a sample: after centering, half of the samples are ahead of their
    peers and half behind. With two modalities the second row is minus the first.

    Args:
        probabilities: ``(modalities, samples)`` true-class probabilities, two modalities or more; ``UNSEEN`` allowed.

    Returns:
        ``(modalities, samples)`` float64; NaN for samples of which a modality was never seen.

    Raises:
        ValueError: fewer than two modalities.
    """
    if len(probabilities) < 2:
        raise ValueError(f"a lead needs two modalities or more, got {len(probabilities)}")
    seen = torch.where(probabilities < 0, torch.nan, probabilities.double())
    logs = seen.clamp_min(FLOOR).log()
    others = [torch.cat([logs[:row], logs[row + 1 :]]).amax(dim=0) for row in range(len(logs))]
    lead = logs - torch.stack(others)
    # quantile, not median: with an even number of samples, median takes the lower one and two modalities would not mirror each other.
    return lead - lead.nanquantile(0.5, dim=1, keepdim=True)


def modality_doubts(probabilities: Tensor) -> Tensor:
    """Return the posterior that a modality of a sample is broken: of the wide component of its leads, where it lags behind.

    Per modality, a mixture of two Gaussians on absolute leads (``two_absolute``) is fitted; leads above 0 are not doubted. With two
    modalities at most one of them is doubted per sample.

    Args:
        probabilities: ``(modalities, samples)`` running true-class probabilities; ``UNSEEN`` allowed.

    Returns:
        ``(modalities, samples)`` float32 in [0, 1]; 0 for samples never seen, and everywhere if no mixture can be fitted (fewer than
        10 samples, or constant leads).

    Raises:
        ValueError: fewer than two modalities.
    """
    doubts = torch.zeros(probabilities.shape, dtype=torch.float32, device=probabilities.device)
    for row, lead in enumerate(log_lead(probabilities)):
        seen = lead.isfinite()
        values = lead[seen].cpu()
        posterior = fit_mixture(values, kind="two_absolute").posterior_imbalanced(values)
        doubts[row, seen] = (posterior * (values < 0)).to(doubts)
    return doubts
