"""The quantized stand-in for `nn.Linear`: stored integers, an input transform, formats per window.

There is one set of stored integers. Every backend computes from it: simulation in floating point
and integer arithmetic alike (`kernels.int_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kernels
from kernels.int_linear import PackedWeight

from .rounding import WeightCodes, groups_of, rounded_rows
from .schema import Format, SitePlan, Window
from .step import current_window
from .transforms import to_input


@dataclass(frozen=True)
class Transform:
    """Which parts of the input transform a site has; the numbers are buffers of the layer."""

    scale: bool = False
    rotate: bool = False

    def __str__(self) -> str:
        return {(False, False): "plain", (True, False): "scale", (False, True): "rotate"}.get(
            (self.scale, self.rotate), "scale and rotate"
        )


class QuantLinear(nn.Module):
    """y = Q_act((x / s) R) . Q_weight((W * s) R)^T + bias, with the formats of the running step.

    Buffers (all in the checkpoint):
        codes   uint8 [o, ceil(i * bits / 8)], densely packed, or float8_e4m3fn [o, i]
        scale   float32 [o, g]
        zero    uint8 [o, g], asymmetric weights only
        channel_scale   float16 [i], with the scale transform only
        signs   uint8 [ceil(i / 8)], one bit per channel (1 is +1), with rotation only
        bias    [o], where the linear has one
    A site whose weight stays in floating point holds `weight` [o, i] instead of codes.
    """

    dqviz_site = True

    # Registered as buffers where the formats ask for them; see above.
    codes: Tensor
    scale: Tensor
    channel_scale: Tensor
    signs: Tensor
    bias: Tensor
    weight: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        plan: SitePlan,
        windows: Sequence[Window],
        transform: Transform,
        dtype: torch.dtype = torch.float32,
        backend: str | None = None,
    ) -> None:
        """An empty layer of the right shapes, to be filled from a checkpoint or by `from_codes`."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.plan, self.windows, self.transform = plan, tuple(windows), transform
        self.backend = backend
        for name, (shape, kind) in buffer_shapes(
            in_features, out_features, bias, plan, transform, dtype
        ).items():
            self.register_buffer(name, torch.empty(shape, dtype=kind))
        self._prepared: dict[str, Any] = {}

    @classmethod
    def from_codes(
        cls,
        weight: WeightCodes | Tensor,
        bias: Tensor | None,
        *,
        plan: SitePlan,
        windows: Sequence[Window],
        channel_scale: Tensor | None,
        signs: Tensor | None,
        dtype: torch.dtype,
        backend: str | None = None,
    ) -> QuantLinear:
        """A layer from codes made by a method (or the transformed weight itself, where it is kept)."""
        codes = weight if isinstance(weight, WeightCodes) else None
        out_features, in_features = (codes.codes if codes is not None else weight).shape  # type: ignore[union-attr]
        layer = cls(
            in_features,
            out_features,
            bias=bias is not None,
            plan=plan,
            windows=windows,
            transform=Transform(channel_scale is not None, signs is not None),
            dtype=dtype,
            backend=backend,
        )
        values: dict[str, Tensor | None] = {"bias": bias}
        if codes is None:
            assert isinstance(weight, Tensor)
            values["weight"] = weight
        else:
            assert plan.weight is not None
            packed = codes.codes
            if plan.weight.kind == "int":
                packed = kernels.bitpack.pack(packed, plan.weight.bits)
            values |= {"codes": packed, "scale": codes.scale, "zero": codes.zero}
        if channel_scale is not None:
            values["channel_scale"] = channel_scale
        if signs is not None:
            values["signs"] = kernels.bitpack.pack((signs[None] > 0).to(torch.uint8), 1)[0]
        for name, value in values.items():
            if value is not None:
                buffer = layer.get_buffer(name)
                setattr(layer, name, value.detach().to(buffer.dtype).reshape(buffer.shape).clone())
        return layer

    @property
    def packed_weight(self) -> PackedWeight:
        """The stored integers, as the kernels take them."""
        assert self.plan.weight is not None
        zero = getattr(self, "zero", None)
        return PackedWeight(
            packed=self.codes,
            bits=self.plan.weight.bits,
            in_features=self.in_features,
            scale=self.scale,
            zero=None if zero is None else zero.to(torch.int16),
            group_size=self.plan.weight.group_size,
        )

    def dequantized_weight(self) -> Tensor:
        """The transformed weight that the stored integers stand for, float32 [o, i]."""
        if "weight" not in self._prepared:
            self._prepared["weight"] = self._dequantize()
        return self._prepared["weight"]

    def input_transform(self, x: Tensor) -> Tensor:
        """(x / s) R, float32 [..., i]."""
        if "signs" not in self._prepared and self.transform.rotate:
            bits = kernels.bitpack.unpack(self.signs[None], 1, self.in_features)[0]
            self._prepared["signs"] = bits.float() * 2 - 1
        scale = self.channel_scale.float() if self.transform.scale else None
        return to_input(x.float(), scale, self._prepared.get("signs"))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., i] -> [..., o], in x's dtype."""
        fmt = self.plan.activations[current_window(self.windows)]
        rows = self.input_transform(x.reshape(-1, self.in_features))  # [m, i]
        bias = self.bias.float() if hasattr(self, "bias") else None
        weight = self.plan.weight
        if fmt is None or not _has_integer_sums(weight, fmt):
            y = F.linear(
                rows if fmt is None else rounded_rows(rows, fmt), self.dequantized_weight(), bias
            )
        else:
            y = kernels.int_linear(rows, self._ready(), bias, fmt.bits, fmt.symmetric)
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    def why(self, rows: int) -> tuple[str, str]:
        """Backend that runs for `rows` rows in the first window, and one sentence why."""
        fmt = self.plan.activations[0]
        if fmt is None:
            return (
                "simulate",
                "simulate: weight-only, the stored integers are expanded for an ordinary matmul",
            )
        if not _has_integer_sums(self.plan.weight, fmt):
            return (
                "simulate",
                f"simulate: {self.plan.weight or 'float'} x {fmt} has no integer sums per row",
            )
        example = torch.empty(rows, self.in_features, device=self.codes.device)
        choice = kernels.int_linear.choose(example, self._ready(), fmt.bits, fmt.symmetric)
        return choice.backend, choice.why

    def extra_repr(self) -> str:
        """Shape, formats and transform."""
        activations = "/".join(str(f or "float") for f in self.plan.activations)
        return f"{self.in_features} -> {self.out_features}, weight {self.plan.weight or 'float'}, input {activations}, {self.transform}"

    def _ready(self) -> Any:
        if "packed" not in self._prepared:
            self._prepared["packed"] = kernels.int_linear.prepare(
                self.packed_weight, self.backend or "auto"
            )
        return self._prepared["packed"]

    def _dequantize(self) -> Tensor:
        fmt = self.plan.weight
        if fmt is None:
            return self.weight.float()
        codes = self.codes
        if fmt.kind == "int":
            codes = kernels.bitpack.unpack(codes, fmt.bits, self.in_features)
        return WeightCodes(codes, self.scale, getattr(self, "zero", None)).dequantize(fmt.bits)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantLinear:
        """Move the layer; scales and codes keep their dtype whatever the model is cast to."""
        exact = {
            n: b
            for n, b in self.named_buffers(recurse=False)
            if n in ("codes", "scale", "channel_scale")
        }
        super()._apply(fn, recurse)
        for name, before in exact.items():
            if self.get_buffer(name).dtype != before.dtype:
                setattr(self, name, before.to(self.get_buffer(name).device))
        self._prepared.clear()
        return self


def _has_integer_sums(weight: Format | None, activation: Format) -> bool:
    """Whether a product of these formats is a sum of integers per token."""
    return (
        weight is not None
        and weight.kind == activation.kind == "int"
        and activation.granularity == "row"
    )


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
    if fmt is None:
        shapes["weight"] = (out_features, in_features), dtype
    else:
        if fmt.kind == "fp8":
            shapes["codes"] = (out_features, in_features), torch.float8_e4m3fn
        else:
            shapes["codes"] = (out_features, (in_features * fmt.bits + 7) // 8), torch.uint8
        groups = groups_of(fmt, in_features)
        shapes["scale"] = (out_features, groups), torch.float32
        if not fmt.symmetric:
            shapes["zero"] = (out_features, groups), torch.uint8
    if transform.scale:
        shapes["channel_scale"] = (in_features,), torch.float16
    if transform.rotate:
        shapes["signs"] = ((in_features + 7) // 8,), torch.uint8
    if bias:
        shapes["bias"] = (out_features,), dtype
    return shapes
