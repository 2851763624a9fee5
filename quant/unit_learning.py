"""One unit while it is learned: its captures, what is drawn from them, Adam, and the error of what is rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .learned_steps import Mixing
from .soft_units import SoftUnit
from .units import HELD_OUT, Captured

JUDGED = 128  # rows at most


class UnitLearning:
    """One unit with its captures, and the moments of Adam."""

    def __init__(
        self, soft: SoftUnit, plain: Captured, prefix: Captured, device: torch.device
    ) -> None:
        self.soft, self.plain, self.prefix, self.device = soft, plain, prefix, device
        judged = torch.arange(len(plain)) % HELD_OUT == HELD_OUT - 1
        rows = torch.arange(len(plain))
        self.learned = rows[~judged]
        held = rows[judged] if bool(judged.any()) else rows
        self.judged = held[:: -(-len(held) // JUDGED)]
        groups = [{"params": soft.logits}, {"params": soft.scales}]
        self.adam = torch.optim.Adam([g for g in groups if g["params"]], lr=0.0)
        self.hard_before = self.hard()

    def batch(
        self, count: int, generator: torch.Generator, mixing: Mixing
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs, mixed, and the outputs that are wanted."""
        rows = self.learned[torch.randint(len(self.learned), (count,), generator=generator)]
        both = zip(
            self._rows(self.prefix.inputs, rows), self._rows(self.plain.inputs, rows), strict=True
        )
        return [mixing.mixed(q, f) for q, f in both], self._rows(self.plain.outputs, rows)

    def learn_at(self, rounding: float, scales: float) -> None:
        """Learning rates of the step to come: before its forward pass, which builds what has gradients."""
        kinds = ((rounding, self.soft.logits), (scales, self.soft.scales))
        rates = [rate for rate, own in kinds if own]
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate
            for parameter in group["params"]:
                parameter.requires_grad_(rate > 0)

    def adam_step(self, loss: Tensor) -> None:
        """One step of what learns."""
        self.adam.zero_grad()
        if loss.requires_grad:
            loss.backward()
            self.adam.step()

    @torch.no_grad()
    def hard(self) -> float:
        """Output loss of the judged rows, rounded."""
        return self._error("hard")

    @torch.no_grad()
    def measures(self) -> dict[str, Any]:
        """As the views want them."""
        return {
            "hard_before": self.hard_before,
            "hard_now": self._error("hard"),
            "soft": self._error("soft"),
            "undecided": self.soft.undecided(),
        }

    def state(self) -> dict[str, Tensor]:
        """What is learned, with its moments and the error that it began with."""
        found = dict(self.soft.learned())
        for i, own in self.adam.state_dict()["state"].items():
            found |= {f"adam.{i}.{n}": t for n, t in own.items()}
        return found | {"hard_before": torch.tensor(self.hard_before, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse."""
        self.soft.learn_from(state)
        self.hard_before = float(state["hard_before"])
        held: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("adam."):
                _, i, part = name.split(".")
                held.setdefault(int(i), {})[part] = tensor
        if held:
            self.adam.load_state_dict({**self.adam.state_dict(), "state": held})

    def _rows(self, tensors: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        return [t[rows].to(self.device).float() for t in tensors]

    def _error(self, weights: Literal["soft", "hard"]) -> float:
        self.soft.quantize(weights)
        lost = 0.0
        for rows in self.judged.split(32):
            made = self.soft(self._rows(self.prefix.inputs, rows))
            lost += len(rows) * float(output_loss(made, self._rows(self.plain.outputs, rows)))
        return lost / len(self.judged)


def output_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """mean over rows and channels of the sum over tokens, of all outputs."""
    parts = [(y - f).square() for y, f in zip(made, wanted, strict=True)]
    return torch.stack([(p.sum(1) if p.dim() > 2 else p).mean() for p in parts]).sum()
