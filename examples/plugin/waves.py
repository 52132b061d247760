"""An encoder, a data set and a method of one's own: `pip install ./examples/plugin`, then
`mlflow run . --env-manager local -P dataset=waves -P encoder=audio:spectrum,visual:mlp -P method=smoothed_waves`."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mm_balance as mm
from mm_balance.methods.base import Method, loss_output


def spectrum(spec):
    """Encode a sequence by the absolute values of its Fourier coefficients."""
    steps, channels = spec.shape
    layers = nn.Sequential(nn.Flatten(), nn.Linear((steps // 2 + 1) * channels, 32), nn.ReLU())
    layers.register_forward_pre_hook(lambda module, samples: torch.fft.rfft(samples[0].float(), dim=1).abs() / 8)
    return layers


def waves():
    """Waves of four frequencies (audio: one channel of noise and wave, visual: the frequency as a noisy vector)."""

    def sample(number):
        random, label = torch.Generator().manual_seed(number), number % 4
        wave = torch.sin(torch.arange(64) * (label + 1) * 0.3 + 6 * torch.rand(1, generator=random))
        audio = (wave + torch.randn(64, generator=random)).unsqueeze(1)
        visual = nn.functional.one_hot(torch.tensor(label), 8) + torch.randn(8, generator=random)
        return {"audio": audio, "visual": visual, "label": f"frequency {label + 1}"}

    splits = {"train": range(400), "val": range(400, 500), "test": range(500, 600)}
    rows = {split: [sample(number) for number in numbers] for split, numbers in splits.items()}
    return mm.from_dataset(rows, modalities=("audio", "visual"), name="waves")


waves.settings = {"batch_size": 32, "learning_rate": 0.02, "warmup_epochs": 4, "adaptive_epochs": 8, "refit_every": 4}


class SmoothedWaves(Method):
    """Joint training with label smoothing and unimodal losses."""

    name, title, citation = "smoothed_waves", "smoothed", "an example"

    def loss(self, model, batch, clock):
        output = model(batch.inputs)
        losses = {"fusion": output.fused, **{f"unimodal_{name}": value for name, value in output.unimodal.items()}}
        return loss_output(
            output, **{name: cross_entropy(value, batch.labels, label_smoothing=0.1) for name, value in losses.items()}
        )
