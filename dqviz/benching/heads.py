"""Speeds of attention with int8 scores on a GPU, for the table that `--backend auto` decides by (`--attention int8`).

From bfloat16 heads, views as layers give them, to bfloat16; making codes of queries and keys is inside. Full precision is
PyTorch's attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.int_attention import OP, custom_op, int_attention

from .linears import doubt
from .subject import SPREAD, Heads
from .timing import columns, fastest

TABLE = OP.name


class Case(NamedTuple):
    """One row to measure: q, k, v [samples, heads, tokens, channels], each its own map."""

    samples: int
    heads: int
    queries: int
    keys: int
    channels: int

    @property
    def work(self) -> int:
        """Operations, thrice: every way does them."""
        return 12 * self.samples * self.heads * self.queries * self.keys * self.channels


def cases(attentions: Iterable[Heads], device: torch.device) -> list[Case]:
    """Of attentions, and of their larger batches."""
    found = dict.fromkeys(
        Case(times * x.samples, x.heads, x.tokens, x.tokens, x.channels)
        for x in attentions
        for times in SPREAD
    )
    return list(found)


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """One row of the table, or why there is none: no kernel holds such heads, or other numbers came of it."""
    q, k, v = (_heads(case, tokens, device) for tokens in (case.queries, case.keys, case.keys))
    reason = custom_op.obstacle(q)
    if reason is not None:
        return reason
    simulate, triton = (partial(int_attention, q, k, v, b) for b in ("simulate", "triton"))
    why = doubt(simulate, triton, q.dtype)
    if why is not None:
        return why
    exact = partial(F.scaled_dot_product_attention, q, k, v)
    calls = {"bf16": exact, "simulate": simulate, "triton": triton}
    return {**case._asdict(), **columns(fastest(calls, runs, device, pause))}


def _heads(case: Case, tokens: int, device: torch.device) -> Tensor:
    wide = case.heads * case.channels
    x = torch.randn(case.samples, tokens, wide, device=device, dtype=torch.bfloat16)
    return x.unflatten(2, (case.heads, case.channels)).transpose(1, 2)
