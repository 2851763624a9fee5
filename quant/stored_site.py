"""What a quantized site stores, and what is made of it for its products: weights, changes of basis, each once.

Whoever computes with a site (`quant/layers.py`) asks for these by the window of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import kernels
from kernels.fp8_linear import Float8Weight
from kernels.int_linear import PackedWeight, Residency
from kernels.vq_linear import ExpandedWeight, VectorWeight

from .held_codes import HeldCodes
from .rounding import WeightCodes, round_to_nearest
from .schema import SitePlan
from .site_tensors import OF_INPUT, Transform, buffer_shapes
from .transforms import BlockRotation, to_weight

UNPREPARED = (
    "a quantized layer is traced that has not run in this step window; call the transformer once, as it "
    "will be called, before it is compiled or exported"
)


class StoredSite(HeldCodes):
    """The tensors of one site.

    Buffers (all in the checkpoint; with a leading axis of windows where the transform is per window,
    but for `weight` of a requantized site and `bias`):
        codes   uint8 [o, ceil(i * bits / 8)], densely packed, or float8_e4m3fn [o, i]
        scale   float32 [o, g]; uint8 (mx) or float8_e4m3fn (nvfp4) in block formats
        zero    uint8 [o, g], asymmetric weights only
        outer   float32 [1], nvfp4 only
        codebook   float32, float16 or int8 [k, d], where codes are of vectors: uint8 [o, ceil(i/d log2(k) / 8)]
        codebook_scale   float32 [1], of a codebook in int8
        down, up    float16 [r, i], [o, r], with a low-rank branch only
        act_scale   float32 [k, g], one row per window, with static activation ranges only
        act_zero    uint8 [k, g], where those are asymmetric
        channel_scale   float16 [i], with the scale transform only
        shift   float16 [i], what static ranges lie about; migration   uint8 [i], a scale of whole numbers
        signs   uint8 [ceil(i / 8)], one bit per channel (1 is +1), with rotation only
        rotations   float32 [2, b, b], both factors of a block rotation, with it only
        order   int16 [i] (int32 beyond 32768 channels), the permutation between them
        bias    [o], where the linear has one; float32 where it was learned
    Sites that read one tensor hold one change of basis: `share_basis` makes them.
    A site whose weight stays in floating point holds the transformed `weight` [o, i] instead of codes;
    a requantized site the untransformed one. What was made for one window is dropped at the next.
    In mode "speed" the layout of an integer product, the CPU's or a GPU's, stands in the place of codes that serve all windows.
    """

    residency: Residency = (
        "speed"  # "memory": weights are expanded in every call, codebooks by tiles
    )

    # Registered as buffers where the formats ask for them; see above. `codes`: `HeldCodes`.
    scale: Tensor
    outer: Tensor
    codebook: Tensor
    codebook_scale: Tensor
    channel_scale: Tensor
    shift: Tensor
    migration: Tensor
    signs: Tensor
    rotations: Tensor
    order: Tensor
    down: Tensor
    up: Tensor
    act_scale: Tensor
    act_zero: Tensor
    bias: Tensor
    weight: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        plan: SitePlan,
        transform: Transform,
        dtype: torch.dtype,
    ) -> None:
        """Empty buffers of the right shapes."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.plan, self.transform = plan, transform
        for name, (shape, kind) in buffer_shapes(
            in_features, out_features, bias, plan, transform, dtype
        ).items():
            self.register_buffer(name, torch.empty(shape, dtype=kind))
        self.keeps_codes = transform.per_window and not transform.requantized
        self._prepared: dict[str, Any] = {}
        self._prepared_for = 0  # window

    def forget(self) -> None:
        """Let go of what was made of the stored form; it is made again when it is needed."""
        super().forget()
        self._prepared.clear()

    @property
    def device(self) -> torch.device:
        """Where the layer computes."""
        held = next(name for name in ("scale", "codebook", "weight") if name in self._buffers)
        return self.get_buffer(held).device

    @property
    def basis_buffers(self) -> tuple[str, ...]:
        """Those of `OF_INPUT` that this site has."""
        return tuple(name for name in OF_INPUT if name in self._buffers)

    @property
    def qweight(self) -> Tensor:
        """What is stored of the weight; where PEFT looks for a layer's device."""
        return self.weight if self.plan.weight is None else self.codes

    def packed_weight(self, window: int = 0) -> PackedWeight:
        """The integers of a window, as the kernels take them."""
        assert self.plan.weight is not None
        codes, scale, zero, _ = self._stored(window)
        return PackedWeight(
            packed=codes,
            bits=self.plan.weight.bits,
            in_features=self.in_features,
            scale=scale,
            zero=None if zero is None else zero.to(torch.int16),
            group_size=self.plan.weight.group_size,
        )

    def vector_weight(self, window: int = 0) -> VectorWeight:
        """Packed codes of a window with their codebook, as the kernels take them."""
        codes, codebook = self._part("codes", window), self._part("codebook", window)
        whole = self.transform.codebook == "int8"
        scale = self._part("codebook_scale", window) if whole else None
        return VectorWeight(codes, codebook, self.in_features, scale)

    @property
    def _in_vectors(self) -> bool:
        return self.plan.weight is not None and self.plan.weight.kind == "codebook"

    @property
    def _by_tiles(self) -> bool:
        """Whether codes into a codebook are decoded by tiles in every call."""
        return self._in_vectors and self.residency == "memory"

    def _vectors(self, window: int) -> VectorWeight:
        return self._once("vectors", window, self.vector_weight)  # holds nothing but what is stored

    def dequantized_weight(self, window: int = 0) -> Tensor:
        """The transformed weight that the codes stand for, without the branch, float32 [o, i]."""
        return self._expanded("weight", window, self._dequantize)

    def basis(self, window: int = 0) -> tuple[Tensor | None, Tensor | None, BlockRotation | None]:
        """Of a window: s, signs and block rotation, as `to_input` and `to_weight` take them."""
        if not self.transform.changes_input:
            return None, None, None  # also in a graph, where nothing can be made ready
        return self._once("basis", window, self._basis)

    @property
    def prepared(self) -> Mapping[str, Any]:
        """What was made of the stored form for the present window, and is kept until the next."""
        return self._prepared

    def _once(self, name: str, window: int, make: Callable[[int], Any]) -> Any:
        """What `make(window)` gives, kept until another window needs its own."""
        own = window if self.transform.per_window else 0
        if own != self._prepared_for:
            self._prepared.clear()
            self._prepared_for = own
        if name not in self._prepared:
            if torch.compiler.is_compiling():
                raise RuntimeError(UNPREPARED)
            self._prepared[name] = make(own)
        return self._prepared[name]

    def _expanded(self, name: str, window: int, make: Callable[[int], Any]) -> Any:
        """As `_once`, or made in every call where memory is to be saved."""
        if self.residency == "speed":
            return self._once(name, window, make)
        return make(window if self.transform.per_window else 0)

    def _part(self, name: str, window: int) -> Tensor:
        """A buffer, or the part of it that belongs to a window."""
        buffer = self.get_buffer(name)
        return buffer[window] if self.transform.per_window else buffer

    def _basis(self, window: int) -> tuple[Tensor | None, Tensor | None, BlockRotation | None]:
        scale = signs = blocks = None
        if self.transform.scale or self.transform.migration:
            held = "channel_scale" if self.transform.scale else "migration"
            scale = self._part(held, window).float()
        if self.transform.rotate:
            bits = kernels.bitpack.unpack(self._part("signs", window)[None], 1, self.in_features)
            signs = bits[0].float() * 2 - 1
        if self.transform.block:
            first, second = self._part("rotations", window)
            blocks = BlockRotation(first, self._part("order", window).long(), second)
        return scale, signs, blocks

    def _stored(self, window: int) -> WeightCodes:
        """Codes of a window, packed, with their scales; those of a requantized site are made here."""
        assert self.plan.weight is not None
        if not self.transform.requantized:
            own = (
                self._part(name, window) if name in self._buffers else None
                for name in ("codes", "scale", "zero", "outer")
            )
            return WeightCodes(*own)  # type: ignore[arg-type]
        made = round_to_nearest(
            to_weight(self.weight.float(), *self.basis(window)), self.plan.weight
        )
        if made.codes.dtype != torch.uint8:
            return made
        return made._replace(codes=kernels.bitpack.pack(made.codes, self.plan.weight.bits))

    def _ready(self, window: int) -> Any:
        if self.transform.requantized:
            return self._expanded("packed", window, self._prepare)
        return self._once("packed", window, self._prepare)  # holds nothing but what is stored

    def _prepare(self, window: int) -> Any:
        assert self.plan.weight is not None
        if self.plan.weight.kind == "fp8":
            codes, scale, *_ = self._stored(window)
            return Float8Weight(codes, scale)
        weight = (
            ExpandedWeight(self.vector_weight(window))
            if self._in_vectors
            else self.packed_weight(window)
        )
        return kernels.int_linear.prepare(
            weight, residency=self.residency, keeps_codes=self.keeps_codes
        )

    def _dequantize(self, window: int) -> Tensor:
        fmt = self.plan.weight
        if fmt is None:
            return self._part("weight", window).float()
        if self._in_vectors:
            return kernels.vq_linear.decode(self.vector_weight(window))
        stored = self._stored(window)
        if stored.codes.dtype == torch.uint8:
            codes = kernels.bitpack.unpack(stored.codes, fmt.bits, self.in_features)
            stored = stored._replace(codes=codes)
        return stored.dequantize(fmt.bits)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_prepared": {}}
