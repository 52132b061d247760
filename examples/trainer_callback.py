"""The adaptive loss in transformers' Trainer. Run: python examples/trainer_callback.py (needs mm-balance[transformers])"""

import tempfile

import mlflow
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from mm_balance import LossWeights, adaptive_loss
from mm_balance.integrations.transformers import GapMixtureCallback

EPOCHS, CLASSES = 6, 4


def make_samples(count, seed):
    """Return samples as dictionaries: two modalities that show the class, the second less clearly."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (count,), generator=draw)
    text, image = (centers[labels] + noise * torch.randn(count, 16, generator=draw) for noise in (0.7, 1.5))
    return [{"id": i, "text": text[i], "image": image[i], "labels": labels[i]} for i in range(count)]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, CLASSES)) for name in ("text", "image")}
        )

    def forward(self, text, image, **others):
        return {"text": self.branches["text"](text), "image": self.branches["image"](image)}


class BalancedTrainer(Trainer):
    gaps: GapMixtureCallback

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits, labels = model(**inputs), inputs["labels"]
        fused = sum(logits.values())
        if self.gaps.measured is None:  # warm-up
            loss = nn.functional.cross_entropy(fused, labels)
        else:
            loss = adaptive_loss(
                fused,
                logits,
                labels,
                posterior_imbalanced=self.gaps.posterior_imbalanced(inputs["id"]),
                balanced_mean=self.gaps.balanced_mean,
                weights=LossWeights(),
                anneal=1.0 - self.state.epoch / EPOCHS,
            ).total
        return (loss, {"logits": fused}) if return_outputs else loss


def survey_logits(network, batch):
    """Tell the callback where things are: unimodal logits, labels, sample ids, fused logits."""
    logits = network(**batch)
    return logits, batch["labels"], batch["id"], sum(logits.values())


if __name__ == "__main__":
    train, validation = make_samples(800, seed=1), make_samples(200, seed=2)
    gaps = GapMixtureCallback(
        survey_logits, DataLoader(train, 256), validation=DataLoader(validation, 256), start=2, every=2
    )
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_name="Trainer with the adaptive loss"):
        arguments = TrainingArguments(
            folder, num_train_epochs=EPOCHS, per_device_train_batch_size=32, learning_rate=5e-3, seed=0, use_cpu=True,
            remove_unused_columns=False, report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = BalancedTrainer(Network(), arguments, train_dataset=train, callbacks=[gaps])
        trainer.gaps = gaps
        trainer.train()
    print(gaps.measured.sentence())
