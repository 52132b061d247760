"""Predictions of nobody's network."""

import torch

SAMPLES, CLASSES = 300, 4


def predictions(samples=SAMPLES, classes=CLASSES, seed=0, audio=4.0):
    """Logits of audio, which is good, visual, which is not, and both; and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=draw)
    truth = torch.eye(classes)[labels]
    logits = {
        name: torch.randn(samples, classes, generator=draw) + strength * truth
        for name, strength in (("audio", audio), ("visual", 0.5))
    }
    return logits, labels, sum(logits.values())
