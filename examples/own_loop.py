"""The adaptive loss in your own training loop: no MLflow, no MM-Balance model. Run: python examples/own_loop.py"""

import torch
from torch import nn

from mm_balance import LossWeights, adaptive_loss, fit_mixture, modality_gap

torch.manual_seed(0)
classes, samples = 4, 800
labels = torch.randint(classes, (samples,))
centers = torch.randn(classes, 16)
audio = centers[labels] + 0.7 * torch.randn(samples, 16)
visual = centers[labels] + 1.5 * torch.randn(samples, 16)  # noisier: audio will lead

encoders = nn.ModuleDict({name: nn.Sequential(nn.Linear(16, 32), nn.ReLU()) for name in ("audio", "visual")})
heads = nn.ModuleDict({name: nn.Linear(32, classes) for name in encoders})
optimizer = torch.optim.SGD([*encoders.parameters(), *heads.parameters()], lr=0.05, momentum=0.9)


def forward(index):
    """Return fused logits, the sum over modalities, and unimodal logits by modality."""
    inputs = {"audio": audio[index], "visual": visual[index]}
    logits = {name: heads[name](encoders[name](value)) for name, value in inputs.items()}
    return sum(logits.values()), logits


def epoch(loss_of):
    for index in torch.randperm(samples).split(32):
        optimizer.zero_grad()
        loss_of(index, *forward(index)).backward()
        optimizer.step()


for _ in range(3):  # stage 1: joint training
    epoch(lambda index, fused, logits: nn.functional.cross_entropy(fused, labels[index]))

for round_ in range(3):  # stage 2: measure gaps, fit the mixture, train; repeat
    with torch.no_grad():
        gaps = modality_gap(forward(slice(None))[1], labels)
    mixture = fit_mixture(gaps)
    posterior = mixture.posterior_imbalanced(gaps)
    print(f"round {round_}: mean gap {gaps.mean():+.3f}, imbalanced weight {mixture.imbalanced.weight:.3f}")
    for _ in range(3):
        epoch(
            lambda index, fused, logits, posterior=posterior, mixture=mixture, round_=round_: (
                adaptive_loss(
                    fused,
                    logits,
                    labels[index],
                    posterior_imbalanced=posterior[index],
                    balanced_mean=mixture.balanced.mean,
                    weights=LossWeights(unimodal=1.0, gap=0.5, shift=0.5, hard=1.0),
                    anneal=1.0 - round_ / 3,
                ).total
            )
        )
