"""Encoders of vectors and of sequences of vectors: embeddings, tabular data, signals of sensors. All sizes are ours."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from mm_balance.input_kinds import SEQUENCE, VECTOR
from mm_balance.models.encoders.base import Encoder
from mm_balance.types import InputSpec

HIDDEN = 128
FEATURES = 64
"""As many as those of ``resnet_narrow``: heads that modalities share need equal widths."""
HEADS = 4
LAYERS = 2
DROPOUT = 0.1


class MlpEncoder(Encoder):
    """Two linear layers with a rectifier and dropout between them; of a sequence, the mean over its steps."""

    kinds = (VECTOR, SEQUENCE)

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.features = FEATURES
        self.layers = nn.Sequential(
            nn.Linear(spec.shape[-1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, FEATURES),
            nn.ReLU(),
        )

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, inputs)`` or ``(batch, steps, inputs)`` -> ``(batch, 64)``."""
        values: Tensor = self.layers(samples)
        return values if samples.dim() == 2 else mean_over_steps(values, padding(samples))


class TransformerEncoder(Encoder):
    """Two layers of a pre-norm transformer with four heads over the steps, then the mean of their outputs.

    Positions are sines and cosines (Vaswani et al. 2017, arXiv 1706.03762, Sec. 3.5), so that any length is possible.
    """

    kinds = (SEQUENCE,)

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.features = FEATURES
        self.embed = nn.Linear(spec.shape[-1], FEATURES)
        layer = nn.TransformerEncoderLayer(
            FEATURES, HEADS, dim_feedforward=HIDDEN, dropout=DROPOUT, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(FEATURES), enable_nested_tensor=False)
        self.register_buffer("positions", sinusoids(spec.shape[-2], FEATURES), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, steps, inputs)`` -> ``(batch, 64)``; padding is neither attended to nor averaged."""
        ignored = padding(samples)
        values = self.embed(samples) + self.get_buffer("positions")
        return mean_over_steps(self.layers(values, src_key_padding_mask=ignored), ignored)


class TemporalConvolution(Encoder):
    """Three convolutions along the steps (width 5, each but the first halves the length), then the mean over the steps."""

    kinds = (SEQUENCE,)

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.features = FEATURES
        widths = (spec.shape[-1], FEATURES, FEATURES, FEATURES)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(incoming, outgoing, kernel_size=5, stride=1 if number == 0 else 2, padding=2, bias=False),
                nn.BatchNorm1d(outgoing),
                nn.ReLU(),
            )
            for number, (incoming, outgoing) in enumerate(pairwise(widths))
        )

    def forward(self, samples: Tensor) -> Tensor:
        """``(batch, steps, inputs)`` -> ``(batch, 64)``; padding stays out of the mean."""
        values, ignored = samples.transpose(1, 2), padding(samples)
        for layer in self.layers:
            values = layer(values)
            ignored = ignored[:, :: math.ceil(ignored.shape[1] / values.shape[2])]
        return mean_over_steps(values.transpose(1, 2), ignored)


def padding(samples: Tensor) -> Tensor:
    """Tell which steps are padding: all zero. Of a sample without any other, the first one counts, so that it has a mean.

    Args:
        samples: ``(batch, steps, inputs)``.

    Returns:
        ``(batch, steps)`` bool.
    """
    ignored = (samples == 0).all(dim=-1)
    ignored[:, 0] &= ~ignored.all(dim=1)
    return ignored


def mean_over_steps(values: Tensor, ignored: Tensor) -> Tensor:
    """Average ``(batch, steps, features)`` over the steps that are not ``ignored``, ``(batch, steps)``: ``(batch, features)``."""
    counted = (~ignored).unsqueeze(-1).to(values.dtype)
    return (values * counted).sum(dim=1) / counted.sum(dim=1)


def sinusoids(steps: int, features: int) -> Tensor:
    """Return the position codes of a transformer, ``(steps, features)``: sines in even columns, cosines in odd ones."""
    position = torch.arange(steps).unsqueeze(1)
    rate = torch.exp(torch.arange(0, features, 2) * (-math.log(10000.0) / features))
    table = torch.empty(steps, features)
    table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
    return table
