"""Attention whose scores are products of int8 rows: the definition.

Shapes: Q [b, h, t, d]; K [b, h, t', d]; V, y [b, h, t' or t, d], or [2 b, ...] where two halves share one map.

    K' = K - mean K                                  over the tokens; sums in float32
    q_i = round(Q_i / a_i),  a_i = max|Q_i| / 127    each row on its own scale, as in `kernels.quantize_rows`
    k_j = round(K'_j / c_j), c_j = max|K'_j| / 127
    S_ij = a_i c_j (q_i . k_j) / sqrt(d)             the product is of integers
    y = softmax(S) V                                 of both halves of V, where there are two

Without the mean every score of a row differs by one number, q_i . mean K, which a softmax does not see; the channels
in which all keys are large no longer set their scales. Formulas are those of SageAttention (Zhang et al. 2024,
https://arxiv.org/abs/2410.02367, and 2, https://arxiv.org/abs/2411.10958); a scale for each row is the finest of theirs.
Two halves with one map are what `quant/sharing.py` needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quantize_rows import reference as rows


class Codes(NamedTuple):
    """Row codes of queries and of keys without their mean; rows stand for codes times scales.

    q [b, h, t, d], k [b, h, t', d]: integer-valued float32; their scales float32 [.., 1]
    """

    q: Tensor
    q_scale: Tensor
    k: Tensor
    k_scale: Tensor


def mean_key(k: Tensor) -> Tensor:
    """[b, h, 1, d], in float32, or in float64 where K is."""
    return k.mean(2, keepdim=True, dtype=_wide(k))


def codes(q: Tensor, k: Tensor) -> Codes:
    """Codes and scales of Q and K'."""
    return Codes(*_rows(q), *_rows(k.to(_wide(k)) - mean_key(k)))


def attend(found: Codes, v: Tensor) -> Tensor:
    """softmax(S) V, in float32 and returned in V's dtype; in float64 where V is."""
    wide = _wide(v)
    q, k = (c.to(wide) * s.to(wide) for c, s in (found[:2], found[2:]))
    halves = v.to(wide).split(len(q))
    return torch.cat([F.scaled_dot_product_attention(q, k, half) for half in halves]).to(v.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y of Q, K and V, in V's dtype."""
    return attend(codes(q, k), v)


def _rows(x: Tensor) -> tuple[Tensor, Tensor]:
    found, scale = rows.symmetric(x.flatten(0, 2), 8, "row")
    return found.view(x.shape), scale.view(*x.shape[:3], 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
