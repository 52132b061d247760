"""Doubt: how likely one modality of a sample is broken, from the probabilities that training has seen.

Ours, not the paper's. The paper multiplies losses by 1 + gamma q, with q the posterior of the imbalanced component; a doubt turns this
round, to 1 - q, per modality. In gradient, the discounted unimodal loss equals soft bootstrapping of Arazo et al., ICML 2019, arXiv
1904.11238; a mixture that tells bad samples from good ones is the idea of DivideMix, ICLR 2020, arXiv 2002.07394.

Two sources of doubt: ``loss_doubts`` looks at a modality's own loss alone, ``modality_doubts`` also compares it with its peers.

Tables of probabilities are ``(modalities, samples)``; ``UNSEEN`` stands for a sample that was not seen (a number, so that a
checkpoint can be compared and checked for non-finite values).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mm_balance.functional.adaptive import cross_entropy
from mm_balance.functional.mixture import VARIANCE_FLOOR, fit_mixture

FLOOR = 1e-6
"""Smallest probability whose logarithm is taken."""
UNSEEN = -1.0
"""In place of the probability of a sample that was not seen."""
LOSS_RANGE = math.sqrt(VARIANCE_FLOOR / 5e-4)
"""Largest loss after scaling. On [0, 1] DivideMix adds 5e-4 to every variance; here our smaller floor weighs the same."""


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


def modality_doubts(probabilities: Tensor, *, margin: float = 0.0) -> Tensor:
    """Return the posterior that a modality of a sample is broken, where that modality lags behind the others.

    Per modality m, with loss_m = -log p_m of the label:

        q_m,i = posterior of the high-loss component (``loss_doubts``)
                * [loss_m,i >= median loss_m + margin]      it is worse than is usual for this modality
                * [lead_m,i < 0]                            and worse than the best of the others (``log_lead``)

    The second factor does not follow the scale of the losses as a mixture does, which finds a high component in clean data, too. The
    third leaves alone what is hard for all modalities or wrongly labeled. With two modalities at most one is doubted per sample.

    Args:
        probabilities: ``(modalities, samples)`` running true-class probabilities; ``UNSEEN`` allowed.
        margin: smallest excess of a loss over its median that is doubted, in nats, at least 0: at 1, the modality holds the label to
            be ``e`` times less likely than it does for a typical sample.

    Returns:
        ``(modalities, samples)`` float32 in [0, 1]; 0 for samples never seen, and for a modality to which no mixture can be fitted
        (fewer than 10 samples, or constant losses).

    Raises:
        ValueError: fewer than two modalities.
    """
    losses = -torch.where(probabilities < 0, torch.nan, probabilities.double()).clamp_min(FLOOR).log()
    excess = losses - losses.nanquantile(0.5, dim=1, keepdim=True)
    behind = log_lead(probabilities) < 0  # false for NaN: samples never seen
    return loss_doubts(probabilities) * (behind & (excess >= margin))


def loss_doubts(probabilities: Tensor) -> Tensor:
    """Return the posterior that a modality of a sample is broken: of the component with the larger mean of its own losses.

    Per modality, losses are ``-log p``, scaled by their minimum and maximum, and a mixture of two Gaussians is fitted to them. The
    modalities are independent, so that both of a sample can be doubted.

    A posterior of two Gaussians of unequal width turns round far from the narrower one: the smallest losses would be doubted, or the
    greatest trusted. Doubt here never falls as the loss grows: it is 0 up to the mean of the low component, and above it at least
    that of every smaller loss.

    Source: DivideMix, Li et al., ICLR 2020, arXiv 2002.07394, section 3.1; the variance floor on scaled losses (5e-4) is of the
    official code. Deviations: the fit runs to convergence from several starts; the monotone doubt; the loss is that of a running
    mean of probabilities.

    Args:
        probabilities: ``(modalities, samples)`` running true-class probabilities, one modality or more; ``UNSEEN`` allowed.

    Returns:
        ``(modalities, samples)`` float32 in [0, 1]; 0 for samples never seen, and for a modality to which no mixture can be fitted
        (fewer than 10 samples, or constant losses).
    """
    doubts = torch.zeros(probabilities.shape, dtype=torch.float32, device=probabilities.device)
    for row, values in enumerate(probabilities):
        seen = values >= 0
        if seen.any():
            doubts[row, seen] = _high_loss_posterior(-values[seen].double().clamp_min(FLOOR).log().cpu()).to(doubts)
    return doubts


def _high_loss_posterior(losses: Tensor) -> Tensor:
    """Return the posterior of the component with the larger mean, made monotone: ``(samples,)`` for losses ``(samples,)``."""
    spread = (losses.max() - losses.min()).clamp_min(torch.finfo(losses.dtype).tiny)
    losses, order = (LOSS_RANGE * (losses - losses.min()) / spread).sort()
    # Components are ordered by mean. A low but wide one may have the larger second moment, which is not what decides here.
    mixture = replace(fit_mixture(losses), balanced_index=0)
    posterior = mixture.posterior_imbalanced(losses) * (losses > mixture.components[0].mean)
    return torch.empty_like(losses).scatter_(0, order, posterior.cummax(dim=0).values)


def discounted_losses(
    fused: Tensor,
    unimodal: Mapping[str, Tensor],
    labels: Tensor,
    doubts: Tensor,
    *,
    unimodal_weight: float,
    discounted: str = "both",
) -> tuple[Tensor, Tensor]:
    """Compute ``mean_i (1 - max_m q_m,i) L_f,i`` and ``mean_i w sum_m (1 - q_m,i) L_m,i``, cross-entropies in float32.

    Args:
        fused: ``(batch, classes)`` logits.
        unimodal: modality -> ``(batch, classes)`` logits.
        labels: ``(batch,)`` int64, or multi-hot: then the cross-entropies are binary (ours).
        doubts: ``(modalities, batch)`` q in [0, 1], modalities in the order of ``unimodal``.
        unimodal_weight: w.
        discounted: ``fused`` or ``unimodal``: doubts apply to that loss alone; ``both``.

    Returns:
        Fused and unimodal loss, scalars.
    """
    fused_loss = cross_entropy(fused.float(), labels)
    each = torch.stack([cross_entropy(logits.float(), labels) for logits in unimodal.values()])
    if discounted != "unimodal":
        fused_loss = (1 - doubts.amax(dim=0)) * fused_loss
    if discounted != "fused":
        each = (1 - doubts) * each
    return fused_loss.mean(), (unimodal_weight * each.sum(dim=0)).mean()
