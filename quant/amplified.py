"""Layers whose input is made larger in some channels on the way in, and put right on the way out.

Shapes: X [.., t, i] input of a linear layer; W [o, i] its weight; S the chosen channels.

    X' = X with X'_S = f X_S                      what the layer sees, and what has to be rounded
    Y  = X' W^T + (1 / f - 1) X'_S W_S^T = X W^T

The last term is in floating point, whatever the layer itself computes in. f is one number per call or
per token. Hooks do this, so names, weights and sites stay as they are, and whatever replaces the
layer takes the hooks over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Factor = Callable[[Tensor], Tensor | float]  # X -> f, a number or [t, 1]


class Amplified:
    """The two hooks of one layer."""

    def __init__(self, channels: Tensor, columns: Tensor, factor: Factor) -> None:
        """Take S [k], W_S [o, k] and f."""
        self.channels, self.columns, self.factor = channels, columns, factor

    def before(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """X -> X'."""
        x = args[0].clone()
        x[..., self.channels] *= self.factor(x)
        return x, *args[1:]

    def after(self, _: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        """Put right what the layer made of X'."""
        x = args[0]
        exact = torch.promote_types(x.dtype, torch.float32)
        share = 1 / self.factor(x) - 1
        chosen = share * x[..., self.channels].to(exact)  # [.., t, k]
        columns = self.columns.to(device=x.device, dtype=exact)
        return (y.to(exact) + chosen @ columns.T).to(y.dtype)


def amplify(layer: nn.Module, amplified: Amplified) -> None:
    """Put the hooks onto a layer."""
    layer.register_forward_pre_hook(amplified.before)
    layer.register_forward_hook(amplified.after)
    layer.dqviz_amplified = amplified  # pyright: ignore[reportArgumentType]  (not a tensor or a module)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Give the layer that replaces another one its hooks."""
    amplified = getattr(old, "dqviz_amplified", None)
    if amplified is not None:
        amplify(new, amplified)


def is_amplified(transformer: nn.Module) -> bool:
    """Whether any layer of a transformer has the hooks: its weights alone are not its function."""
    return any(hasattr(module, "dqviz_amplified") for module in transformer.modules())
