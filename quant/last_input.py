"""What was made of one tensor, kept for the next layer that reads the same one."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import Tensor


class LastInput:
    """What one change of basis made of the tensor that it saw last: q, k and v read the same one.

    Held while that tensor lives and is not written to.
    """

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[Tensor], int, int, Tensor] | None = None

    def of(self, x: Tensor, window: int, make: Callable[[Tensor, int], Tensor]) -> Tensor:
        """`make(x, window)`, once for a tensor."""
        if x.is_inference():  # such tensors do not say when they were written to
            return make(x, window)
        last = self._last
        if last is not None and last[0]() is x and last[1:3] == (x._version, window):
            return last[3]
        rows = make(x, window)
        self._last = weakref.ref(x, self._forget), x._version, window, rows
        return rows

    def clear(self) -> None:
        """Forget it: the change of basis is another now."""
        self._last = None

    def _forget(self, dead: weakref.ref[Tensor]) -> None:
        if self._last is not None and self._last[0] is dead:
            self._last = None
