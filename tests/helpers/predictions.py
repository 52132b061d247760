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


def multi_label_predictions(samples=SAMPLES, classes=CLASSES, seed=0):
    """The same with one to three true classes per sample: the labels are multi-hot, ``(samples, classes)`` int64."""
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(samples, classes, generator=draw) < 0.3).long()
    labels[labels.sum(1) == 0, 1] = 1
    logits = {
        name: torch.randn(samples, classes, generator=draw) + strength * (2 * labels - 1)
        for name, strength in (("audio", 2.0), ("visual", 0.3))
    }
    return logits, labels, sum(logits.values())
