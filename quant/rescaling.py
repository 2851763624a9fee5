"""Multiplying the channels of an input where they are made, in the weights alone.

Shapes: x [.., c] an input; f [k] factors of its channels S; e conditioning; T a table beside A e + b.

    x = norm(h) (1 + scale) + shift     scale = A e + b + T:   A -> f A,  T -> f T,  b -> f b + f - 1
                                        shift = A e + b + T:   A -> f A,  T -> f T,  b -> f b
    x = softmax(..) V                   rows S of W_v and b_v -> f times
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .adapters.producers import Modulation
from .errors import BadInput


class Rows:
    """Parameters of a transformer that are copied when they are first changed."""

    def __init__(
        self, transformer: nn.Module, overflow: str, stored: torch.dtype | None = None
    ) -> None:
        """Of `transformer`; with `stored`, what is changed is rounded to that type, but for biases.

        `overflow` is what is said where a product is not finite, with {dtype} and {name} in it.
        """
        self.transformer, self._stored = transformer, stored
        self._overflow = overflow
        self._own: set[str] = set()

    def get(self, name: str) -> Tensor | None:
        """A parameter by its full name; None when its module has none of that name."""
        owner, _, last = name.rpartition(".")
        return getattr(self.transformer.get_submodule(owner), last)

    def multiply(
        self, name: str, index: object, factor: Tensor | float, offset: Tensor | float = 0.0
    ) -> None:
        """parameter[index] -> factor * parameter[index] + offset; BadInput where that overflows."""
        parameter = self._writable(name)
        with torch.no_grad():
            old = parameter[index].double()  # type: ignore[index]
            if isinstance(factor, Tensor):
                factor = factor.double().reshape(-1, *[1] * (old.dim() - 1)).to(old.device)
            if isinstance(offset, Tensor):
                offset = offset.double().to(old.device)
            own = self._stored is None or name.endswith(".bias")
            dtype = parameter.dtype if own else self._stored
            changed = (old * factor + offset).to(dtype)
            if not bool(torch.isfinite(changed).all()):
                said = str(dtype).removeprefix("torch.")
                raise BadInput(self._overflow.format(dtype=said, name=name))
            parameter[index] = changed.to(parameter.dtype)  # type: ignore[index]

    def multiply_outputs(self, linear: str, channels: Tensor, factor: Tensor | float) -> None:
        """Rows of a linear layer, and of its bias if it has one."""
        for name in (f"{linear}.weight", f"{linear}.bias"):
            if self.get(name) is not None:
                self.multiply(name, channels, factor)

    def multiply_modulated(
        self, made_by: Modulation, channels: Tensor, factor: Tensor | float
    ) -> None:
        """Both kinds of rows that make a modulated input; its linear must have a bias."""
        for shift, scale in ((made_by.shift, made_by.scale), *made_by.also):
            for first, offset in ((shift, 0.0), (scale, factor - 1)):
                rows = channels + first
                self.multiply(f"{made_by.linear}.weight", rows, factor)
                self.multiply(f"{made_by.linear}.bias", rows, factor, offset)
        for table, shift, scale in made_by.tables:
            parameter = self.get(table)
            assert parameter is not None
            batch = (0,) * (parameter.dim() - 2)  # some have an axis of one before [chunks, c]
            for row in (shift, scale):
                self.multiply(table, (*batch, row, channels), factor)

    def _writable(self, name: str) -> Tensor:
        owner, _, last = name.rpartition(".")
        module = self.transformer.get_submodule(owner)
        if name not in self._own:
            self._own.add(name)
            old = getattr(module, last)
            setattr(module, last, nn.Parameter(old.detach().clone(), requires_grad=False))
        return getattr(module, last)
