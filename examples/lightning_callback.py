"""The adaptive loss in a Lightning module. Run: python examples/lightning_callback.py (needs mm-balance[lightning])"""

import lightning
import mlflow
import torch
from torch import nn
from torch.utils.data import DataLoader

from mm_balance import LossWeights, adaptive_loss
from mm_balance.integrations.lightning import GapMixtureCallback

EPOCHS, CLASSES = 6, 4


def make_samples(count, seed):
    """Return samples as dictionaries: two modalities that show the class, the second less clearly."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (count,), generator=draw)
    audio, visual = (centers[labels] + noise * torch.randn(count, 16, generator=draw) for noise in (0.7, 1.5))
    return [{"id": i, "audio": audio[i], "visual": visual[i], "label": labels[i]} for i in range(count)]


class Network(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)) for name in ("audio", "visual")}
        )
        self.gaps = None  # the callback

    def forward(self, batch):
        return {name: branch(batch[name]) for name, branch in self.branches.items()}

    def training_step(self, batch):
        logits, labels = self(batch), batch["label"]
        fused = sum(logits.values())
        if self.gaps.measured is None:  # warm-up
            return nn.functional.cross_entropy(fused, labels)
        return adaptive_loss(
            fused,
            logits,
            labels,
            posterior_imbalanced=self.gaps.posterior_imbalanced(batch["id"]),
            balanced_mean=self.gaps.balanced_mean,
            weights=LossWeights(),
            anneal=1.0 - self.current_epoch / EPOCHS,
        ).total

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def survey_logits(network, batch):
    """Tell the callback where things are: unimodal logits, labels, sample ids, fused logits."""
    logits = network(batch)
    return logits, batch["label"], batch["id"], sum(logits.values())


if __name__ == "__main__":
    lightning.seed_everything(0)
    train, validation = make_samples(800, seed=1), make_samples(200, seed=2)
    network = Network()
    network.gaps = GapMixtureCallback(
        survey_logits, DataLoader(train, 256), validation=DataLoader(validation, 256), start=2, every=2
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[network.gaps],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    with mlflow.start_run(run_name="Lightning with the adaptive loss"):
        trainer.fit(network, DataLoader(train, 32, shuffle=True))
    print(network.gaps.measured.sentence())
