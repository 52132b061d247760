"""Lightning: a callback that surveys the samples, and gives the training step the posterior. Needs the extra ``lightning``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

try:
    from lightning.fabric.utilities import move_data_to_device
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import MLFlowLogger
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"this callback needs the package {error.name}: pip install 'mm-balance[lightning]'", name=error.name
    ) from error

from mm_balance.integrations.surveys import GapSurveys, active_run_id
from mm_balance.measuring import log_refit


class GapMixtureCallback(GapSurveys, Callback):
    """Surveys before an epoch, every few epochs, and once more after the last one; arguments and attributes: ``GapSurveys``.

    Every process surveys all samples; the first one logs. Each survey goes to the active MLflow run and to the run of a
    ``MLFlowLogger`` as ``mm_balance.log_refit`` does, to all other loggers as metrics. Checkpoints keep the posterior, and training
    that is resumed from one goes on with it. Networks that are spread over several devices (FSDP, DeepSpeed) are not supported.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._forget()  # a checkpoint is read after this

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_due(trainer.current_epoch):
            self._survey_and_log(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch >= self.start:
            self._survey_and_log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return self._state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._restore(state_dict)

    def _survey_and_log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self.measured
        self._survey(pl_module, trainer.current_epoch, partial(move_data_to_device, device=pl_module.device))
        if self.measured is None or self.measured is before or not trainer.is_global_zero:
            return
        log = partial(log_refit, self.measured, self.measured.epoch, validation=self.validation_measured)
        active = active_run_id()
        if active is not None:
            log()
        for logger in trainer.loggers:
            if not isinstance(logger, MLFlowLogger):
                metrics = self.measured.metrics() | {"epoch": float(self.measured.epoch)}
                logger.log_metrics(metrics, step=trainer.global_step)
            elif logger.run_id != active:
                log(run_id=logger.run_id, store=logger.experiment.tracking_uri)
