"""What a quantized site stores: which parts it has, and the shape and dtype of every tensor of it.

Layers, checkpoints and predicted sizes all read it here, so that they agree to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .rounding import groups_of
from .schema import Format, SitePlan
from .transforms import block_of
from .vectors import DTYPES, CodebookKind, codebook_shape, index_bits

Listed = bool | int | str | Sequence[str]  # one part of a site, in a checkpoint's configuration


@dataclass(frozen=True)
class Transform:
    """Which parts beside its codes a site has; the numbers are buffers of the layer."""

    scale: bool = False
    rotate: bool = False
    rank: int = 0  # of the 16-bit branch beside the codes; at most the smaller side of the weight
    block: int = 0  # channels that a block rotation mixes at most; 0 where there is none
    per_window: bool = False  # transform, codes and scales once for each window of the plan
    requantized: bool = False  # the untransformed weight is stored, its codes made at window entry
    folded_into: tuple[str, ...] = ()  # linears that hold the scale, so that none is stored here
    codebook: CodebookKind = "fp32"  # how its vectors are stored, where there is one
    learned_bias: bool = False  # the bias is the site's own, in float32
    shift: bool = False  # static ranges lie about a middle of each channel's own
    migration: bool = False  # a scale of whole numbers, a byte each

    @property
    def changes_input(self) -> bool:
        """Whether anything is done to the input before it is rounded."""
        return self.scale or self.rotate or self.migration or bool(self.block)

    def __str__(self) -> str:
        parts = {"scale": self.scale, "rotate": self.rotate, "block rotation": self.block}
        parts |= {"shift": self.shift, "migration": self.migration}
        name = " and ".join(n for n, has in parts.items() if has) or "plain"
        name += f", scale folded into {' and '.join(self.folded_into)}" if self.folded_into else ""
        name += " per window" if self.per_window else ""
        name += ", requantized" if self.requantized else ""
        return f"{name}, branch of rank {self.rank}" if self.rank else name

    @classmethod
    def from_json(cls, listed: Mapping[str, Listed]) -> Transform:
        """The inverse of `to_json`; in older checkpoints a codebook in float16 is `half_codebook`.

        Raises ValueError, naming the part, for one that is not known and for a value that it cannot have.
        """
        parts = dict(listed)
        if parts.pop("half_codebook", False):
            parts["codebook"] = "fp16"
        usual = cls()
        for name, value in parts.items():
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"part '{name}' of a site is not known here")
            if not _fits(value, getattr(usual, name)):
                raise ValueError(f"'{name}' cannot be {value!r:.40}")
        folded_into = tuple(listed.get("folded_into", ()))  # type: ignore[arg-type]
        return cls(**parts | {"folded_into": folded_into})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Listed]:
        """As a checkpoint lists it; rarer parts that are as usual are left out."""
        usual = Transform()
        present = {n: value for n, value in vars(self).items() if value != getattr(usual, n)}
        return {"scale": self.scale, "rotate": self.rotate, **present}


def _fits(value: object, usual: object) -> bool:
    """Whether a part can have a value where it usually has another."""
    if isinstance(usual, tuple):
        return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
    if isinstance(usual, str):
        return isinstance(value, str) and value in DTYPES
    return type(value) is type(usual) and value >= 0  # type: ignore[operator]


# Buffers that are the same at every site that reads one tensor: its change of basis.
OF_INPUT = ("channel_scale", "signs", "rotations", "order")


class LowRank(NamedTuple):
    """A product of two thin matrices that stands beside the codes: its part of W' is `up` `down`."""

    down: Tensor  # float16 [r, i]
    up: Tensor  # float16 [o, r]

    def product(self) -> Tensor:
        """The part of the weight that the branch holds, float32 [o, i]."""
        return self.up.float() @ self.down.float()


def has_integer_sums(
    weight: Format | None, activation: Format, codebook: CodebookKind = "fp32"
) -> bool:
    """Whether a product of these formats is a sum of integers per token; `codebook` is how one is stored."""
    whole = weight is not None and (
        weight.kind == "int" or (weight.kind == "codebook" and codebook == "int8")
    )
    return whole and activation.kind == "int" and activation.granularity == "row"


def has_static_sums(weight: Format | None, activation: Format) -> bool:
    """Whether it is such a sum with one static range for all tokens."""
    return (
        weight is not None
        and weight.kind == "int"
        and weight.group_size is None
        and activation.static
        and activation.granularity == "tensor"
    )


def has_float8_sums(weight: Format | None, activation: Format) -> bool:
    """Whether it is a sum of products of 8-bit floats per token."""
    return (
        weight is not None
        and weight.kind == activation.kind == "fp8"
        and activation.granularity == "row"
    )


_SCALES = {"mxfp8": torch.uint8, "mxfp4": torch.uint8, "nvfp4": torch.float8_e4m3fn}


def buffer_shapes(
    in_features: int,
    out_features: int,
    bias: bool,
    plan: SitePlan,
    transform: Transform,
    dtype: torch.dtype,
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor that a site stores: sizes are predicted from this alone."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    fmt = plan.weight
    if fmt is None or transform.requantized:
        shapes["weight"] = (out_features, in_features), dtype
    elif fmt.kind == "codebook":
        k, d = codebook_shape(fmt, out_features, in_features)
        packed = (in_features // d * index_bits(k) + 7) // 8
        shapes["codes"] = (out_features, packed), torch.uint8
        shapes["codebook"] = (k, d), DTYPES[transform.codebook]
        if transform.codebook == "int8":
            shapes["codebook_scale"] = (1,), torch.float32
    else:
        if fmt.kind in ("fp8", "mxfp8"):
            shapes["codes"] = (out_features, in_features), torch.float8_e4m3fn
        else:
            shapes["codes"] = (out_features, (in_features * fmt.bits + 7) // 8), torch.uint8
        groups = groups_of(fmt, in_features)
        shapes["scale"] = (out_features, groups), _SCALES.get(fmt.kind, torch.float32)
        if fmt.kind == "nvfp4":
            shapes["outer"] = (1,), torch.float32
        if not fmt.symmetric:
            shapes["zero"] = (out_features, groups), torch.uint8
    if transform.scale:
        shapes["channel_scale"] = (in_features,), torch.float16
    if transform.shift:
        shapes["shift"] = (in_features,), torch.float16
    if transform.migration:
        shapes["migration"] = (in_features,), torch.uint8
    if transform.rotate:
        shapes["signs"] = ((in_features + 7) // 8,), torch.uint8
    if transform.rank:
        rank = min(transform.rank, in_features, out_features)
        shapes["down"] = (rank, in_features), torch.float16
        shapes["up"] = (out_features, rank), torch.float16
    if transform.block:
        block = block_of(in_features, transform.block)
        shapes["rotations"] = (2, block, block), torch.float32
        kind = torch.int16 if in_features <= 2**15 else torch.int32
        shapes["order"] = (in_features,), kind
    if transform.per_window:
        copies = len(plan.activations)
        shapes = {
            n: (shape if n == "weight" and transform.requantized else (copies, *shape), kind)
            for n, (shape, kind) in shapes.items()
        }
    if plan.static_formats:
        fmt = plan.static_formats[0]
        ranges = len(plan.activations), groups_of(fmt, in_features)
        shapes["act_scale"] = ranges, torch.float32
        if not fmt.symmetric:
            shapes["act_zero"] = ranges, torch.uint8
    if bias:
        shapes["bias"] = (out_features,), torch.float32 if transform.learned_bias else dtype
    return shapes
