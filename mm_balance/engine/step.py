"""Optimizer step with mixed precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALE = "learning_rate_scale"
"""Key of a parameter group: factor of the learning rate."""


def build_optimizer(
    kind: str,
    parameters: Iterable[nn.Parameter] | Mapping[float, Iterable[nn.Parameter]],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Build ``sgd`` (with momentum) or ``adam`` (torch's defaults, L2 penalty in the gradient).

    ``parameters``: all, or factor of the learning rate -> those that have it.
    """
    groups: Any = parameters
    if isinstance(parameters, Mapping):
        groups = [
            {"params": list(members), "lr": learning_rate * scale, SCALE: scale}
            for scale, members in parameters.items()
        ]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.Adam(groups, lr=learning_rate, weight_decay=weight_decay)


class EngineOptimizerStep:
    """An optimizer with its gradient scaler, passed to ``Method.update`` as ``step``.

    Args:
        optimizer: the optimizer to step.
        device: device of the model.
        precision: ``float32``, ``bfloat16`` or ``float16`` (the last with loss scaling).
        skip_not_finite: whether ``step`` leaves out gradients that are not finite, at the price of a device sync.

    Attributes:
        skip_not_finite: the same.
        skipped: number of steps that were left out.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, device: torch.device, precision: str, *, skip_not_finite: bool = False
    ) -> None:
        self.optimizer = optimizer
        self._device = device
        self._dtype = PRECISIONS[precision]
        self.skip_not_finite = skip_not_finite
        self.skipped = 0
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context for forward passes."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)

    def reset(self) -> None:
        """Clear the optimizer state (momentum etc.); the learning rate is kept."""
        self.optimizer.state.clear()

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get(SCALE, 1.0)

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass and unscale the gradients, so that methods can read and edit them."""
        self._scaler.scale(loss).backward()
        self.unscale()

    def gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Compute gradients of one loss, still scaled; zero for parameters it does not depend on. The graph is kept."""
        if not parameters:  # those of frozen encoders
            return []
        gradients = torch.autograd.grad(
            self._scaler.scale(loss), list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(gradients)

    def unscale(self) -> None:
        """Undo the loss scaling of the parameters' current gradients."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(self.optimizer)

    def finite(self) -> bool:
        """Return False if gradients overflowed under float16, so that ``step`` will skip them; call between ``unscale`` and ``step``.

        Reads the scaler's own flag, so the two cannot disagree. Always True under other precisions, without a device sync.
        """
        if not self._scaler.is_enabled():
            return True
        return not any(bool(overflow) for overflow in self._scaler._found_inf_per_device(self.optimizer).values())

    def step(self) -> None:
        """Update the parameters, unless gradients overflowed under float16, or are not finite and ``skip_not_finite`` is set."""
        if self.skip_not_finite and not self._scaler.is_enabled() and not self._gradients_finite():
            self.skipped += 1
            return
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def _gradients_finite(self) -> bool:
        gradients = [
            item.grad for group in self.optimizer.param_groups for item in group["params"] if item.grad is not None
        ]
        if not gradients:
            return True
        return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())

    def state_dict(self) -> dict[str, Any]:
        return {
            "kind": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load optimizer state (momentum buffers etc.) but keep this optimizer's learning rate, momentum and weight decay.

        torch's ``Optimizer.load_state_dict`` would load the saved hyperparameters too.

        Raises:
            ValueError: the state belongs to another optimizer class (torch would load it silently).
        """
        if state["kind"] != type(self.optimizer).__name__:
            raise ValueError(
                f"the saved state is of {state['kind']}, but the optimizer is {type(self.optimizer).__name__}"
            )
        own = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
