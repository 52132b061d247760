"""transformers.Trainer: a callback that surveys the samples, and gives the loss the posterior. Needs the extra ``transformers``."""

from __future__ import annotations

import base64
import io
from functools import partial
from typing import Any

import torch
from torch import nn

try:
    from accelerate.utils import send_to_device
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import MLflowCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"this callback needs the package {error.name}: pip install 'mm-balance[transformers]'", name=error.name
    ) from error

from mm_balance.integrations.surveys import GapSurveys, active_run_id
from mm_balance.measuring import log_refit

STATE = "mm_balance.GapMixture"
"""Where the trainer's state, and ``trainer_state.json`` of a checkpoint, has ours."""
WHOLE = 1e-6
"""How far the trainer's count of epochs may be from a whole number at the end of an epoch."""


class GapMixtureCallback(GapSurveys, TrainerCallback):
    """Surveys at the end of an epoch, every few epochs and after the last one; arguments and attributes: ``GapSurveys``.

    Every process surveys all samples; the first one logs. Each survey goes to the active MLflow run as ``mm_balance.log_refit`` does,
    and to the trainer's ``log_history``; after ``connect(trainer)`` also to what it reports to (TensorBoard, Weights & Biases, ...).
    Checkpoints keep the posterior in ``trainer_state.json``, and training that is resumed from one goes on with it. If training stops
    within an epoch (``max_steps``), that epoch has no survey.
    """

    trainer: Trainer | None = None

    def connect(self, trainer: Trainer) -> None:
        """Report surveys also to everything that ``trainer`` reports to."""
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._forget()
        if state.global_step and isinstance(state.stateful_callbacks, dict) and STATE in state.stateful_callbacks:
            self._restore(_from_text(state.stateful_callbacks[STATE]["attributes"]["surveys"]))
        if self._is_due(int(state.epoch or 0)) and self.measured is None:
            self._survey_and_log(args, state, control, kwargs["model"], int(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        finished = state.epoch or 0.0
        epoch = round(finished)
        is_last = epoch >= state.num_train_epochs or control.should_training_stop
        if abs(finished - epoch) < WHOLE and (self._is_due(epoch) or (is_last and epoch >= self.start)):
            self._survey_and_log(args, state, control, kwargs["model"], epoch)

    def _survey_and_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, epoch: int
    ) -> None:
        self._survey(model, epoch, partial(send_to_device, device=args.device))
        assert self.measured is not None
        # Not as an ExportableState: the trainer would make another callback from its text, without functions and loaders.
        kept: Any = state.stateful_callbacks  # a mapping, once training has begun
        kept[STATE] = {"args": {}, "attributes": {"surveys": _to_text(self._state())}}
        if not state.is_world_process_zero:
            return
        metrics = self.measured.metrics()
        state.log_history.append({**metrics, "epoch": state.epoch, "step": state.global_step})
        if active_run_id() is not None:
            log_refit(self.measured, epoch, validation=self.validation_measured)
        for callback in [] if self.trainer is None else self.trainer.callback_handler.callbacks:
            # MLflow has the refit already, by epochs; its callback would add the same metrics by optimizer steps.
            if callback is not self and not isinstance(callback, MLflowCallback):
                callback.on_log(args, state, control, logs={**metrics, "epoch": state.epoch}, model=model)


def _to_text(state: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _from_text(text: str) -> dict[str, Any]:
    return torch.load(io.BytesIO(base64.b64decode(text)), map_location="cpu", weights_only=True)
