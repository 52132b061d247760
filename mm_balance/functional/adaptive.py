"""The losses of both stages.

Source: arXiv 2510.21797v1. Its display equations 5, 7 and 10 were lost: **all loss forms here are reconstructions** from
the prose, the ablation table and the abstracts of later versions, not the authors' own equations. Notation: D modality
gap (Eq. 6), q_m and q_b posterior of imbalanced and balanced (Eq. 9), mu_b mean of the balanced component, lambda the
annealing coefficient, alpha = ``gap``, beta = ``shift``, gamma = ``hard``, delta = ``balanced_fusion``.

Labels may be multi-hot. The paper has one class per sample; what several mean is our rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from mm_balance.functional.gap import check_labels, gap_from_probabilities, true_class_probability, weaker_moving_gap
from mm_balance.functional.labels import has_several_classes


@dataclass(frozen=True)
class LossWeights:
    """The weights of the adaptive loss, all >= 0: w_uni, alpha, beta, gamma, delta.

    Raises:
        ValueError: a weight is negative or not finite.
    """

    unimodal: float = 1.0
    gap: float = 0.5
    shift: float = 0.5
    hard: float = 1.0
    balanced_fusion: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"the loss weight {item.name} must be a finite number of at least 0, got {value}")


@dataclass(frozen=True, eq=False)
class AdaptiveLoss:
    """A loss and its parts: scalars, weighted as in ``total``, which is their sum."""

    total: Tensor
    fusion: Tensor
    unimodal: Tensor
    gap: Tensor
    shift: Tensor
    hard: Tensor

    def parts(self) -> dict[str, Tensor]:
        """Return the detached parts by name."""
        return {item.name: getattr(self, item.name).detach() for item in fields(self) if item.name != "total"}


@dataclass(frozen=True, eq=False)
class Terms:
    """Per-sample terms that a loss form combines, each ``(batch,)``.

    Attributes:
        fusion: L_f, cross-entropy of the fused logits (Eq. 5, reconstructed); of multi-hot labels binary, see ``cross_entropy``.
        unimodal: sum of the unimodal cross-entropies over modalities.
        distance: abs(D).
        shift: squared distance to the balanced center, (D - mu_b)^2.
        imbalanced: q_m.
        balanced: q_b.
    """

    fusion: Tensor
    unimodal: Tensor
    distance: Tensor
    shift: Tensor
    imbalanced: Tensor
    balanced: Tensor


def _reconstructed(terms: Terms, weights: LossWeights, anneal: float) -> dict[str, Tensor]:
    """(1 + delta q_b) L_f + w (L_a + L_v) + lambda [alpha abs(D) + beta q_m (D - mu_b)^2 + gamma q_m (L_a + L_v)]."""
    return {
        "fusion": (1 + weights.balanced_fusion * terms.balanced) * terms.fusion,
        "unimodal": weights.unimodal * terms.unimodal,
        "gap": anneal * weights.gap * terms.distance,
        "shift": anneal * weights.shift * terms.imbalanced * terms.shift,
        "hard": anneal * weights.hard * terms.imbalanced * terms.unimodal,
    }


def _prose(terms: Terms, weights: LossWeights, anneal: float) -> dict[str, Tensor]:
    """L_f + w (L_a + L_v) + lambda [alpha abs(D) + beta q_m (D - mu_b)^2] + gamma q_m L_f.

    Lambda applies to the gap terms only; delta is not used.
    """
    return {
        "fusion": terms.fusion,
        "unimodal": weights.unimodal * terms.unimodal,
        "gap": anneal * weights.gap * terms.distance,
        "shift": anneal * weights.shift * terms.imbalanced * terms.shift,
        "hard": weights.hard * terms.imbalanced * terms.fusion,
    }


def _abstract_v2(terms: Terms, weights: LossWeights, anneal: float) -> dict[str, Tensor]:
    """(1 + delta q_b) L_f + w (L_a + L_v) + lambda alpha q_m abs(D), from the abstract of version 2.

    The caller sets delta = ``balanced_fusion`` (1 in that version); beta and gamma are not used.
    """
    zero = torch.zeros_like(terms.fusion)
    return {
        "fusion": (1 + weights.balanced_fusion * terms.balanced) * terms.fusion,
        "unimodal": weights.unimodal * terms.unimodal,
        "gap": anneal * weights.gap * terms.imbalanced * terms.distance,
        "shift": zero,
        "hard": zero,
    }


FORMS: dict[str, Callable[[Terms, LossWeights, float], dict[str, Tensor]]] = {
    "reconstructed": _reconstructed,
    "prose": _prose,
    "abstract_v2": _abstract_v2,
}


def adaptive_loss(
    fused_logits: Tensor,
    logits: Mapping[str, Tensor],
    labels: Tensor,
    *,
    posterior_imbalanced: Tensor,
    balanced_mean: float,
    weights: LossWeights,
    anneal: float,
    form: str = "reconstructed",
    gap_gradient: str = "both",
    posterior_balanced: Tensor | None = None,
    absolute: bool = False,
) -> AdaptiveLoss:
    """Compute the loss of stage 2 (Eq. 10, reconstructed), averaged over the batch.

    Args:
        fused_logits: ``(batch, classes)``.
        logits: modality -> ``(batch, classes)`` unimodal logits, two or more. The first modality is the leading one of the gap.
        labels: ``(batch,)`` int64; or multi-hot, ``(batch, classes)``, bool, or numbers that are exactly 0 or 1, each row with a true
            class. Then the cross-entropies are binary (``cross_entropy``) and the gap is that of ``true_class_probability``; all
            else is the same (ours).
        posterior_imbalanced: ``(batch,)`` in [0, 1], q_m; never differentiated. The range is not
            checked, because that would synchronize with the device.
        balanced_mean: mu_b, a constant between refits.
        weights: w_uni, alpha, beta, gamma, delta.
        anneal: current lambda, >= 0.
        form: one of ``FORMS``.
        gap_gradient: ``both``, or ``weaker``: gradients of the gap terms reach only the weaker modality of each sample (ours).
        posterior_balanced: ``(batch,)`` q_b; default 1 - q_m. Pass it for the ablation that sets both to 1.
        absolute: mu_b is a mean of abs(D) (mixture kind ``two_absolute``), so the shift is (abs(D) - mu_b)^2 (ours).

    Returns:
        Scalars: the parts and their sum. With alpha = beta = gamma = delta = 0 it equals ``warmup_loss``.

    Raises:
        ValueError: mismatched shapes, labels that do not fit (``check_labels``), fewer than two modalities, unknown form or gap
            gradient, or ``anneal`` is negative or not finite.
    """
    if form not in FORMS:
        raise ValueError(f"form={form} is not known; give one of {', '.join(FORMS)}")
    if gap_gradient not in ("both", "weaker"):
        raise ValueError(f"gap_gradient={gap_gradient} is not known; give both or weaker")
    if not math.isfinite(anneal) or anneal < 0:
        raise ValueError(f"anneal must be a finite number of at least 0, got {anneal}")
    for name, value in {"posterior_imbalanced": posterior_imbalanced, "posterior_balanced": posterior_balanced}.items():
        if value is not None and value.shape != labels.shape[:1]:
            # Broadcasting a (batch, 1) posterior would silently mix samples.
            raise ValueError(f"{name} has shape {tuple(value.shape)}, labels {tuple(labels.shape)}; need (B,)")
    fusion, unimodal = _cross_entropies(fused_logits, logits, labels)
    probabilities = {name: true_class_probability(value, labels) for name, value in logits.items()}
    gap = (gap_from_probabilities if gap_gradient == "both" else weaker_moving_gap)(probabilities)
    imbalanced = posterior_imbalanced.detach().to(fusion)
    balanced = 1 - imbalanced if posterior_balanced is None else posterior_balanced.detach().to(fusion)
    terms = Terms(
        fusion=fusion,
        unimodal=unimodal,
        distance=gap.abs(),
        shift=((gap.abs() if absolute else gap) - balanced_mean) ** 2,
        imbalanced=imbalanced,
        balanced=balanced,
    )
    return _mean(FORMS[form](terms, weights, anneal))


def warmup_loss(
    fused_logits: Tensor, logits: Mapping[str, Tensor], labels: Tensor, *, unimodal_weight: float
) -> AdaptiveLoss:
    """Compute the loss of stage 1 (Eq. 5 and 7, both reconstructed): mean of L_f + w_uni sum_m L_m.

    Args:
        fused_logits: ``(batch, classes)``.
        logits: modality -> ``(batch, classes)`` unimodal logits, one or more.
        labels: ``(batch,)`` int64, or multi-hot as for ``adaptive_loss``.
        unimodal_weight: w_uni >= 0; 0 is plain joint training.

    Returns:
        The same parts as the adaptive loss; gap, shift and hard are 0.

    Raises:
        ValueError: mismatched shapes, labels that do not fit (``check_labels``), no modality, or a weight that is negative or not
            finite.
    """
    LossWeights(unimodal=unimodal_weight)  # validates the weight
    fusion, unimodal = _cross_entropies(fused_logits, logits, labels)
    zero = torch.zeros_like(fusion)
    return _mean({"fusion": fusion, "unimodal": unimodal_weight * unimodal, "gap": zero, "shift": zero, "hard": zero})


def posterior_weights(posterior: Tensor, imbalanced_weight: float, kind: str) -> tuple[Tensor, Tensor]:
    """Return the (q_m, q_b) that the loss uses, each ``(batch,)``.

    Args:
        posterior: ``(batch,)`` in [0, 1], q_m of the mixture.
        imbalanced_weight: pi_m, the mixture weight of the imbalanced component.
        kind: ``posterior``; ``none`` = both are 1 (the paper's Table 2); ``prior`` = pi_m and 1 - pi_m for every
            sample, which keeps the mean weight (ours, the fair ablation).

    Raises:
        ValueError: unknown kind.
    """
    if kind == "posterior":
        return posterior, 1 - posterior
    if kind == "none":
        return torch.ones_like(posterior), torch.ones_like(posterior)
    if kind == "prior":
        return torch.full_like(posterior, imbalanced_weight), torch.full_like(posterior, 1 - imbalanced_weight)
    raise ValueError(f"posterior_weighting={kind} is not known; give posterior, none or prior")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample (Eq. 5, reconstructed), ``(batch,)``, never in half precision.

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)`` int64: the cross-entropy of the softmax. Multi-hot, ``(batch, classes)``: the binary cross-entropy of the
            sigmoid, mean over all classes (ours).
    """
    logits = logits.float() if logits.element_size() < 4 else logits
    if not has_several_classes(labels):
        return functional.cross_entropy(logits, labels, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(dim=1)


def _cross_entropies(fused_logits: Tensor, logits: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return L_f and the sum of the unimodal L_m (Eq. 5, reconstructed), each ``(batch,)``."""
    if not logits:
        raise ValueError("the unimodal losses need at least one modality, got none")
    for name, value in [("fused", fused_logits), *logits.items()]:
        if value.ndim != 2 or value.shape != fused_logits.shape or labels.shape not in (value.shape[:1], value.shape):
            raise ValueError(
                f"{name} logits have shape {tuple(value.shape)}, fused logits {tuple(fused_logits.shape)}, "
                f"labels {tuple(labels.shape)}; need (B, C), (B, C), and (B,) class numbers or (B, C) multi-hot labels"
            )
    check_labels(fused_logits, labels)
    fusion, *unimodal = [cross_entropy(value, labels) for value in (fused_logits, *logits.values())]
    return fusion, torch.stack(unimodal).sum(dim=0)


def _mean(terms: dict[str, Tensor]) -> AdaptiveLoss:
    parts = {name: value.mean() for name, value in terms.items()}
    return AdaptiveLoss(total=torch.stack(list(parts.values())).sum(), **parts)
