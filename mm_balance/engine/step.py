"""Optimizer, mixed precision and one update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_optimizer(
    kind: str, parameters: Iterator[nn.Parameter], *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """``sgd`` (with momentum) or ``adam`` (torch's defaults, L2 penalty in the gradient)."""
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)


class EngineOptimizerStep:
    """One optimizer with its gradient scaler. It is what ``Method.update`` gets as ``step``.

    Args:
        optimizer: what to step.
        device: where the model is.
        precision: ``float32``, ``bfloat16`` or ``float16`` (the last with loss scaling).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, precision: str) -> None:
        self.optimizer = optimizer
        self._device = device
        self._dtype = PRECISIONS[precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)

    def reset(self) -> None:
        """Forget momentum and the like; the learning rate stays."""
        self.optimizer.state.clear()

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Backward pass; gradients are unscaled afterwards, so that methods may read and edit them."""
        self._scaler.scale(loss).backward()
        self.unscale()

    def gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Gradients of one loss, still scaled; zero where the loss does not depend on a parameter. The graph is kept."""
        found = torch.autograd.grad(
            self._scaler.scale(loss), list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(found)

    def unscale(self) -> None:
        """Undo the scaling of the gradients that the parameters hold now."""
        if self._scaler.is_enabled():
            self._scaler.unscale_(self.optimizer)

    def finite(self) -> bool:
        """Between ``unscale`` and ``step``: False under float16 where the gradients overflowed, so that ``step`` will skip them.

        The scaler's own finding, so the two cannot disagree. Always True under other precisions, and nothing waits for the device.
        """
        if not self._scaler.is_enabled():
            return True
        return not any(bool(found) for found in self._scaler._found_inf_per_device(self.optimizer).values())

    def step(self) -> None:
        self._scaler.step(self.optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {
            "kind": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over momentum and the like; learning rate, momentum's factor, weight decay stay this optimizer's own.

        torch's ``Optimizer.load_state_dict`` would take the saved settings too.

        Raises:
            ValueError: the state is another optimizer's (torch would take it silently).
        """
        if state["kind"] != type(self.optimizer).__name__:
            raise ValueError(f"the saved state is of {state['kind']}, this is {type(self.optimizer).__name__}")
        own = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
