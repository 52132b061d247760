"""The callback in Lightning itself: it surveys, logs, and leaves no trace in the training; a checkpoint keeps the posterior."""

import csv

import mlflow
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mm_balance import LossWeights, adaptive_loss, names
from mm_balance.engine.predictions import predict_split
from mm_balance.functional.gap_fits import fit_gaps
from mm_balance.testing import tiny_data, tiny_stage
from mm_balance.tracking import refits
from mm_balance.tracking.lookup import find_run
from tests.integrations.rows import METHOD, Rows, logits_of, several_of

pytest.importorskip("lightning", reason="lightning is not installed: pip install '.[lightning]'")

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger

from mm_balance.integrations.lightning import GapMixtureCallback

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
DATA = tiny_data()


class Module(lightning.LightningModule):
    predict = staticmethod(logits_of)

    def __init__(self, gaps=None, *, loss_uses_gaps=True):
        super().__init__()
        self.stage = tiny_stage(METHOD, data=DATA)
        self.network = self.stage.model
        self.gaps = gaps
        self.loss_uses_gaps = loss_uses_gaps
        self.used = []

    def training_step(self, batch):
        unimodal, labels, ids, fused = self.predict(self.network, batch)
        if self.gaps is None or self.gaps.measured is None or not self.loss_uses_gaps:
            return nn.functional.cross_entropy(fused, labels)
        posterior = self.gaps.posterior_imbalanced(ids)
        self.used.append((self.current_epoch, self.gaps.measured.epoch))
        return adaptive_loss(
            fused, unimodal, labels, posterior_imbalanced=posterior, balanced_mean=self.gaps.balanced_mean,
            weights=LossWeights(), anneal=1.0,
        ).total  # fmt: skip

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def callback(**settings):
    loaders = [DataLoader(Rows(DATA.splits[name]), 16) for name in ("train", "val")]
    return GapMixtureCallback(
        lambda module, batch: module.predict(module.network, batch), loaders[0], validation=loaders[1], **settings
    )


def fit(module, folder, epochs=3, callbacks=(), logger=False, checkpoint=None, shuffle=True):
    lightning.seed_everything(1)
    callbacks = [*callbacks, *([module.gaps] if module.gaps is not None else [])]
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=callbacks, logger=logger, default_root_dir=folder,
        enable_checkpointing=any(isinstance(item, ModelCheckpoint) for item in callbacks), enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Rows(DATA.splits["train"]), 8, shuffle=shuffle), ckpt_path=checkpoint)
    return trainer


def weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def test_the_gaps_are_those_of_our_own_survey(tmp_path):
    module = Module(callback(start=2, every=2))
    fit(module, tmp_path)
    split = DATA.splits["train"]
    ours = fit_gaps(predict_split(module.network, module.stage.method, split, CPU), 3, "two")
    measured = module.gaps.measured
    assert measured.epoch == 3
    torch.testing.assert_close(measured.gaps, ours.gaps, atol=1e-6, rtol=0)
    assert measured.samples == split.samples
    assert module.gaps.validation_measured.samples == DATA.splits["val"].samples
    assert set(module.used) == {(2, 2)}


def test_several_true_classes(store, tmp_path):
    module = Module(callback(start=0))
    module.predict = several_of
    with mlflow.start_run() as active:
        fit(module, tmp_path, epochs=2)
    assert set(module.used) == {(0, 0), (1, 1)}
    table = refits.read_gap_table(find_run(active.info.run_id), 2)
    assert table["label"].str.split().map(len).eq(2).all()
    assert table["gap"].to_numpy() == pytest.approx(module.gaps.measured.gaps.numpy())


def test_a_survey_leaves_no_trace_in_the_training(tmp_path):
    plain, surveyed = Module(), Module(callback(start=0), loss_uses_gaps=False)
    for module in (plain, surveyed):
        fit(module, tmp_path)
    assert surveyed.gaps.measured.epoch == 3
    assert torch.equal(weights(plain), weights(surveyed))


def test_training_that_is_resumed_goes_on_with_the_posterior(tmp_path):
    whole, resumed = (Module(callback(start=1, every=3)) for _ in range(2))
    saved = ModelCheckpoint(tmp_path, filename="after-{epoch}", save_top_k=-1, every_n_epochs=1)
    fit(whole, tmp_path, epochs=4, callbacks=[saved], shuffle=False)  # Lightning's checkpoints keep no random states
    restored = []
    load = resumed.gaps.load_state_dict
    resumed.gaps.load_state_dict = lambda state: (load(state), restored.append(resumed.gaps.measured))
    fit(resumed, tmp_path, epochs=4, checkpoint=tmp_path / "after-epoch=1.ckpt", shuffle=False)
    assert restored[0].epoch == 1
    assert resumed.used[0] == (2, 1)
    assert {epoch for epoch, _ in resumed.used} == {2, 3}
    assert set(whole.used) == {(1, 1), (2, 1), (3, 1)}
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    assert torch.equal(resumed.gaps.measured.gaps, whole.gaps.measured.gaps)


def test_a_new_training_forgets_the_old_one(tmp_path):
    gaps = callback(start=1)
    fit(Module(gaps), tmp_path, epochs=2)
    again = Module(gaps)
    fit(again, tmp_path, epochs=2)
    assert {epoch for epoch, _ in again.used} == {1}


def test_the_active_run_has_every_refit_and_other_loggers_their_metrics(store, tmp_path):
    with mlflow.start_run() as active:
        fit(Module(callback(start=1)), tmp_path, logger=CSVLogger(tmp_path))
    run = find_run(active.info.run_id)
    assert refits.refit_epochs(run) == [1, 2, 3]
    assert refits.is_complete(run, 3, with_validation=True)
    assert set(run.read().data.metrics) >= {*names.REFIT_METRICS, "val/gap_mean"}
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["gap/mean"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1.0", "5"), ("2.0", "10"), ("3.0", "15")]


def test_the_run_of_lightnings_own_mlflow_logger_has_every_refit_once(store, tmp_path):
    logger = MLFlowLogger("Default", tracking_uri=f"sqlite:///{store}/mlflow.db")
    fit(Module(callback(start=1)), tmp_path, epochs=2, logger=logger)
    run = find_run(logger.run_id)
    assert refits.refit_epochs(run) == [1, 2]
    assert [step for step, _ in run.metric_series("gap/mean")] == [1, 2]
