"""The network of a finished stage that logged no model: a nested run of `main`, whose parent has the final one."""

from __future__ import annotations

import torch

from mm_balance import names
from mm_balance.config import restore
from mm_balance.data import MultimodalData
from mm_balance.errors import UserError
from mm_balance.folders import work_folder
from mm_balance.methods import find_method
from mm_balance.models import MultimodalNetwork
from mm_balance.tracking.recorder import MlflowRecorder
from mm_balance.tracking.runs import TrackedRun


def load_trained(run: TrackedRun, data: MultimodalData) -> tuple[MultimodalNetwork, int]:
    """Return the selected network of a finished stage from its checkpoint, and its epoch.

    Args:
        run: the run of the stage.
        data: the data that it was trained on.

    Raises:
        UserError: the run has no checkpoint, or has not finished.
    """
    recorder = MlflowRecorder(run, work_folder(run.run_id), (), None)
    state = recorder.load()
    if state is None:
        raise UserError(
            f"run {run.run_id} has neither a model nor a checkpoint; give a finished run of warmup, adaptive, train or main, or one "
            "nested in main"
        )
    status = run.read().info.status
    if status != "FINISHED":
        raise UserError(f"run {run.run_id} has not finished (status {status}); resume it first")
    record, progress = state["record"], state["progress"]
    config = restore(record["config"])
    # The record of a second stage has its method apart from the parameters.
    chosen = find_method(record["method"])
    method = chosen(chosen.Options(**record["options"]), tuple(data.specs), len(data.splits["train"]))
    model = MultimodalNetwork(
        data.specs,
        len(data.classes),
        encoder=config.model.encoder,
        fusion=method.head(config.model.fusion),
        interaction=method.interaction,
    )
    epoch = progress["first_epoch"] + progress["stage_epoch"]
    if record["entry_point"] != "warmup" and config.selection.selection == "best_validation":
        state = recorder.load(names.CHECKPOINT_BEST)
        if state is None or state["epoch"] != progress["best_epoch"]:
            raise UserError(f"run {run.run_id} has lost its best weights; evaluate the run that it is nested in")
        epoch = state["epoch"]
    model.load_state_dict(state["model"])
    # As in training: another memory format selects other kernels, and sums differ in their last bits.
    return model.to(memory_format=torch.channels_last), epoch
