"""The callback in transformers' Trainer itself: it surveys, logs, and leaves no trace; a checkpoint keeps the posterior."""

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

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[transformers]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install '.[transformers]'")

from transformers import Trainer, TrainerCallback, TrainingArguments

from mm_balance.integrations.transformers import GapMixtureCallback

pytestmark = [pytest.mark.slow, pytest.mark.verify, pytest.mark.filterwarnings("ignore")]
CPU = torch.device("cpu")
DATA = tiny_data()


def collate(samples):
    """Samples with texts as ids: the default would leave them out."""
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in ("audio", "visual", "label")}
    return {**batch, "id": [sample["id"] for sample in samples]}


class Tiny(Trainer):
    gaps = None
    predict = staticmethod(logits_of)

    def __init__(self, *positional, **named):
        super().__init__(*positional, **named)
        self.used = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        unimodal, labels, ids, fused = self.predict(model, inputs)
        if self.gaps is None or self.gaps.measured is None:
            return nn.functional.cross_entropy(fused, labels)
        self.used.append((int(self.state.epoch), self.gaps.measured.epoch))
        return adaptive_loss(
            fused, unimodal, labels, posterior_imbalanced=self.gaps.posterior_imbalanced(ids),
            balanced_mean=self.gaps.balanced_mean, weights=LossWeights(), anneal=1.0,
        ).total  # fmt: skip


def callback(logits=logits_of, **settings):
    loaders = [DataLoader(Rows(DATA.splits[name]), 16, collate_fn=collate) for name in ("train", "val")]
    return GapMixtureCallback(logits, loaders[0], validation=loaders[1], **settings)


def trainer_of(folder, gaps, epochs=3, *, loss_uses_gaps=True, **settings):
    stage = tiny_stage(METHOD, data=DATA)
    arguments = TrainingArguments(
        str(folder), num_train_epochs=epochs, per_device_train_batch_size=8, learning_rate=0.01, seed=0, use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True,
        **{"report_to": "none", "save_strategy": "no", "lr_scheduler_type": "constant"} | settings,
    )  # fmt: skip
    trainer = Tiny(
        stage.model, arguments, train_dataset=Rows(DATA.splits["train"]), data_collator=collate,
        callbacks=[] if gaps is None else [gaps],
    )  # fmt: skip
    trainer.stage = stage
    trainer.gaps = gaps if loss_uses_gaps else None
    return trainer


def weights(trainer):
    return torch.cat([value.flatten().double() for value in trainer.model.state_dict().values()])


def test_the_gaps_are_those_of_our_own_survey(tmp_path):
    trainer = trainer_of(tmp_path, callback(start=2, every=2))
    trainer.train()
    split = DATA.splits["train"]
    ours = fit_gaps(predict_split(trainer.model, trainer.stage.method, split, CPU), 3, "two")
    measured = trainer.gaps.measured
    assert measured.epoch == 3
    torch.testing.assert_close(measured.gaps, ours.gaps, atol=1e-6, rtol=0)
    assert measured.samples == split.samples
    assert trainer.gaps.validation_measured.samples == DATA.splits["val"].samples
    assert set(trainer.used) == {(2, 2)}


def test_several_true_classes_are_trained_with_and_kept_in_a_checkpoint(tmp_path):
    whole, resumed = (
        trainer_of(tmp_path, callback(several_of, start=0), epochs=2, save_strategy="epoch") for _ in range(2)
    )
    for trainer in (whole, resumed):
        trainer.predict = several_of
    whole.train()
    assert set(whole.used) == {(0, 0), (1, 1)}
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert set(resumed.used) == {(1, 1)}
    assert torch.equal(resumed.gaps.measured.labels, whole.gaps.measured.labels)
    assert resumed.gaps.measured.is_multi_label


def test_a_survey_leaves_no_trace_in_the_training(tmp_path):
    trainers = [trainer_of(tmp_path, gaps, loss_uses_gaps=False) for gaps in (None, callback(start=0))]
    for trainer in trainers:
        trainer.train()
    assert torch.equal(*(weights(trainer) for trainer in trainers))


@pytest.mark.parametrize("restore", [False, True])
def test_training_that_is_resumed_goes_on_with_the_posterior(tmp_path, restore):
    whole = trainer_of(tmp_path, callback(start=1, every=3), epochs=4, save_strategy="epoch")
    whole.train()
    settings = {"restore_callback_states_from_checkpoint": restore}
    resumed = trainer_of(tmp_path, callback(start=1, every=3), epochs=4, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert resumed.used[0] == (2, 1)
    assert set(whole.used) == {(1, 1), (2, 1), (3, 1)}
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    assert torch.equal(resumed.gaps.measured.gaps, whole.gaps.measured.gaps)


def test_a_new_training_forgets_the_old_one(tmp_path):
    gaps = callback(start=1)
    trainer_of(tmp_path, gaps, epochs=2).train()
    again = trainer_of(tmp_path, gaps, epochs=2)
    again.train()
    assert {epoch for epoch, _ in again.used} == {1}


def test_the_active_run_and_the_trainers_log_have_every_refit(store, tmp_path):
    with mlflow.start_run() as active:
        trainer = trainer_of(tmp_path, callback(start=1))
        trainer.train()
    run = find_run(active.info.run_id)
    assert refits.refit_epochs(run) == [1, 2, 3]
    assert refits.is_complete(run, 3, with_validation=True)
    assert set(run.read().data.metrics) >= {*names.REFIT_METRICS, "val/gap_mean"}
    logged = [(entry["epoch"], entry["step"]) for entry in trainer.state.log_history if "gap/mean" in entry]
    assert logged == [(1.0, 5), (2.0, 10), (3.0, 15)]


class Listener(TrainerCallback):
    """What a callback like TensorBoard's hears."""

    def __init__(self):
        self.heard = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.heard += [state.global_step] * ("gap/mean" in logs)


def test_other_reports_hear_of_it_once_connected_and_mlflow_has_each_metric_once(store, tmp_path):
    with mlflow.start_run() as active:
        trainer, listener = trainer_of(tmp_path, callback(start=1), epochs=2, report_to="mlflow"), Listener()
        trainer.add_callback(listener)
        trainer.gaps.connect(trainer)
        trainer.train()
    assert listener.heard == [5, 10]
    run = find_run(active.info.run_id)
    assert [step for step, _ in run.metric_series("gap/mean")] == [1, 2]
