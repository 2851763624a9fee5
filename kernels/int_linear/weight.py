"""The stored integers of a quantized weight, and a cache of the forms that the backends compute with.

Shapes: weight [n, k]; codes q unsigned, `bits` bits; scale d and zero z [n, g] with g groups of
`group_size` input channels (g = 1 if None, the last group may be short).

    w = (q - z) d                       z = 2^(bits-1) where `zero` is None (symmetric)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import bitpack

Residency = Literal["speed", "memory"]
T = TypeVar("T")


class GatedResidual(NamedTuple):
    """What adds a layer to the stream it came from: residual + gate y, as after attention and MLP of a DiT.

    gate [b, n], one row for each sample, whose rows stand together; residual [m, n]
    """

    gate: Tensor
    residual: Tensor


After = Literal["gelu"] | GatedResidual | None


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A quantized weight matrix [n, k] as it is stored.

    packed uint8[n, ceil(k * bits / 8)] (layout of `kernels.bitpack`); bits 1..8; in_features k;
    scale float32[n, g]; zero int16[n, g] or None (symmetric); group_size in input channels or None
    Raises ValueError, naming the part, if they do not belong together.
    """

    packed: Tensor
    bits: int
    in_features: int
    scale: Tensor
    zero: Tensor | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits}; weights have 1 to 8")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; use None or at least 1")
        width = -(-self.in_features * self.bits // 8)
        if (
            self.packed.dtype != torch.uint8
            or self.packed.dim() != 2
            or self.packed.shape[1] != width
        ):
            raise ValueError(
                f"packed is {self.packed.dtype} of shape {tuple(self.packed.shape)}; "
                f"{self.in_features} codes of {self.bits} bits need uint8 rows of {width} bytes"
            )
        groups = 1 if self.group_size is None else -(-self.in_features // self.group_size)
        shape = (self.packed.shape[0], groups)
        for name, t, dtype in (
            ("scale", self.scale, torch.float32),
            ("zero", self.zero, torch.int16),
        ):
            if t is not None and (t.dtype != dtype or tuple(t.shape) != shape):
                raise ValueError(
                    f"{name} is {t.dtype} of shape {tuple(t.shape)}; needs {dtype} {shape}"
                )

    @classmethod
    def from_codes(
        cls,
        codes: Tensor,
        bits: int,
        scale: Tensor,
        zero: Tensor | None = None,
        group_size: int | None = None,
    ) -> PackedWeight:
        """Pack unsigned codes uint8[n, k]; the rest as in the class. Raises ValueError as `bitpack.pack`."""
        return cls(
            bitpack.pack(codes, bits, "simulate"), bits, codes.shape[1], scale, zero, group_size
        )

    @property
    def out_features(self) -> int:
        """n."""
        return self.scale.shape[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        parts = (self.packed, self.scale, self.zero)
        return sum(t.numel() * t.element_size() for t in parts if t is not None)

    def codes(self) -> Tensor:
        """The stored unsigned codes, uint8[n, k]."""
        return bitpack.unpack(self.packed, self.bits, self.in_features, "simulate")

    def zeros(self) -> Tensor:
        """z, int16[n, g], also where it is implied."""
        if self.zero is not None:
            return self.zero
        return torch.full_like(self.scale, 2 ** (self.bits - 1), dtype=torch.int16)

    def integers(self) -> Tensor:
        """q - z, integer-valued float32[n, k]; between -255 and 255."""
        q = self.codes().to(torch.float32)
        if self.zero is None:
            return q.sub_(2 ** (self.bits - 1))
        return q.sub_(self.by_column(self.zero.to(torch.float32)))

    def dequantize(self) -> Tensor:
        """(q - z) d, float32[n, k]."""
        return self.integers().mul_(self.by_column(self.scale))

    def by_column(self, t: Tensor) -> Tensor:
        """Something of each row, or of its groups [n, g], as it meets the columns: [n, 1] or [n, k]."""
        if self.group_size is None:
            return t  # [n, 1]
        return t.repeat_interleave(self.group_size, dim=1)[:, : self.in_features]  # [n, k]

    @cached_property
    def _code_range(self) -> tuple[Tensor, Tensor]:
        codes = self.codes().to(torch.int16)
        return codes.amin(dim=1, keepdim=True), codes.amax(dim=1, keepdim=True)  # [n, 1]

    def centre(self, lowest: int, highest: int) -> Tensor | None:
        """int16[n, 1] closest to z with every q - centre in lowest..highest; None if some row has none.

        Equal to z wherever that fits, so that q - z itself can be the operand of an integer product.
        Only for one group per row.
        """
        lo, hi = self._code_range
        least, most = hi - highest, lo - lowest  # [n, 1]
        if bool((least > most).any()):
            return None
        return torch.minimum(torch.maximum(self.zeros(), least), most)


class ReleasedWeight(PackedWeight):
    """A weight whose stored codes were let go: they are made each time they are asked for, by `codes_of(self)`.

    `let_go` is the tensor that held them, while there is one. Copies hold their codes again.
    """

    codes_of: Callable[[PackedWeight], Tensor]
    let_go: weakref.ref[Tensor]

    def __init__(self, weight: PackedWeight, codes_of: Callable[[PackedWeight], Tensor]) -> None:
        kept = ("bits", "in_features", "scale", "zero", "group_size")
        self.__dict__.update({name: getattr(weight, name) for name in kept}, codes_of=codes_of)
        self.__dict__["let_go"] = weakref.ref(weight.packed)

    @property
    def packed(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The codes as they were stored, to the bit."""
        return bitpack.pack(self.codes(), self.bits, "simulate")

    def codes(self) -> Tensor:
        """The stored unsigned codes, uint8[n, k]."""
        return self.codes_of(self)

    def __reduce__(self) -> tuple[object, ...]:
        whole = (self.packed, self.bits, self.in_features, self.scale, self.zero, self.group_size)
        return PackedWeight, whole


@dataclass(eq=False)
class Prepared:
    """A weight with the expanded forms that the backends compute with.

    residency "speed" keeps a form once it was made; "memory" makes it anew in every call.
    `backend` is used where a call does not name one. With `keeps_codes` no form takes the stored codes' place.
    """

    weight: PackedWeight
    backend: str = "auto"
    residency: Residency = "speed"
    keeps_codes: bool = False
    forms: dict[str, object] = field(default_factory=dict, repr=False)
    facts: dict[object, object] = field(default_factory=dict, repr=False)

    def form(
        self,
        key: str,
        make: Callable[[PackedWeight], T],
        codes_of: Callable[[T, PackedWeight], Tensor] | None = None,
    ) -> T:
        """The expanded form `key`, made by `make(weight)` unless it is kept.

        Where `codes_of(form, weight)` makes the stored codes of a form that is kept, the form holds them
        from then on, and the stored ones are let go; not inside a graph.
        """
        if key in self.forms:
            return self.forms[key]  # pyright: ignore[reportReturnType]
        stored = self.weight
        made = make(stored)
        if self.residency == "speed":
            self.forms[key] = made
            keeps = self.keeps_codes or torch.compiler.is_compiling()
            if codes_of is not None and not keeps:
                self.weight = _released(stored, partial(codes_of, made))
        return made

    def fact(self, key: object, find: Callable[[], T]) -> T:
        """A small fact about the weight, found by `find()` once, whatever the residency."""
        if key not in self.facts:
            self.facts[key] = find()
        return self.facts[key]  # pyright: ignore[reportReturnType]

    def __getstate__(self) -> dict[str, object]:
        """Copies start without expanded forms: oneDNN's cannot be copied, and all can be made anew."""
        return {**self.__dict__, "forms": {}, "facts": {}}


def _released(weight: PackedWeight, codes_of: Callable[[PackedWeight], Tensor]) -> PackedWeight:
    """The weight without its stored codes, once what is made in their place was found equal to them."""
    if isinstance(weight, ReleasedWeight):
        return weight
    released = ReleasedWeight(weight, codes_of)
    return released if torch.equal(released.packed, weight.packed) else weight
