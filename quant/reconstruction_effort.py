"""What learning unit after unit takes: work of one group, and bytes."""

from __future__ import annotations

from collections.abc import Sequence

from .effort import GroupShape, Work
from .reconstruction import ReconstructionOptions
from .units import MIB

_DRAW, _SEARCH, _SOFT, _CALLS, _HELD = 30, 400, 45, 250, 12  # passes, calls, copies
_MIX = 120  # passes over what is quantized and mixed, most for random numbers: timed on a CPU


def learning_work(
    shape: GroupShape, options: ReconstructionOptions, *, learned: bool = True
) -> Work:
    """Of one group: trajectories, captures of every unit, and of its own unit searches and iterations.

    A capture runs both networks up to the unit, half of each on average; a unit has two inputs or so.
    """
    rows = shape.branches * options.samples * shape.tokens
    once = Work(rows * shape.weights, _DRAW * rows * shape.width)
    found = once * shape.steps + once * (options.steps * shape.groups / 2)
    found = found + Work(0, _SEARCH * shape.weights)
    if learned:
        x = options.batch * shape.tokens
        outputs = sum(shape.outputs)
        each = Work(
            3 * x * shape.weights,
            _SOFT * shape.weights + _MIX * x * (shape.width + outputs),
            _CALLS,
        )
        found = found + each * options.iterations
    return found


def learning_memory(shapes: Sequence[GroupShape], options: ReconstructionOptions) -> int:
    """Bytes: captures, and of the largest input weights with logits and moments, and its rows.

    Captures are float16, both inputs and the output; as many as they may be where tokens are not known.
    """
    held = max((s.weights for s in shapes), default=0)
    rows = max((s.tokens * (s.width + sum(s.outputs)) for s in shapes), default=0)
    captured = options.cache_mib * MIB
    if any(s.tokens > 1 for s in shapes):
        every = shapes[0].branches * options.samples * options.steps
        row = max(2 * s.tokens * (2 * s.width + sum(s.outputs)) for s in shapes)
        captured = min(captured, every * row)
    return captured + 4 * (_HELD * held + _HELD * options.batch * rows)
