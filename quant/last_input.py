"""What was made of one tensor, kept for the next layer that reads the same one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")


class LastInput(Generic[Made]):
    """What was made of the tensor that its readers saw last: q, k and v read the same one.

    Held until the last reader has it, and no longer than that tensor lives and is not written to: what
    is made of a text that every block reads is not held for every block.
    """

    def __init__(self) -> None:
        self.readers = 1
        self._last: tuple[weakref.ref[Tensor], int, Hashable, Made] | None = None
        self._awaited = 0  # readers that have not had it yet

    def of(self, x: Tensor, key: Hashable, make: Callable[[Tensor], Made]) -> Made:
        """`make(x)`, once for a tensor and a key."""
        if self.readers == 1 or torch.compiler.is_compiling() or x.is_inference():
            return make(x)  # inference tensors do not say when they were written to
        last = self._last
        if last is not None and last[0]() is x and last[1:3] == (x._version, key):
            self._awaited -= 1
            if self._awaited == 0:
                self.clear()
            return last[3]
        made = make(x)
        self._last = weakref.ref(x, self._forget), x._version, key, made
        self._awaited = self.readers - 1
        return made

    def clear(self) -> None:
        """Forget it: the change of basis is another now, or nobody waits for it."""
        self._last = None

    def _forget(self, dead: weakref.ref[Tensor]) -> None:
        if self._last is not None and self._last[0] is dead:
            self._last = None
