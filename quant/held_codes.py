"""Stored codes of a layer, held once: as they are stored, or in the layout that its integer product reads.

The layouts of the CPU's product and of a GPU's give the codes back to the bit. So once it was made, in mode "speed", the buffer
`codes` holds no bytes: a tensor without data stands there, with the codes' shape and dtype, and knows the weight
that makes them again. Codes into an int8 codebook are found by the codewords that they stand for, which such a layout holds whole.
Whoever asks for codes (`layer.codes`, `get_buffer`, `state_dict`) gets them; copies of the layer, pickled ones too, hold them
whole, and so does the layer once it is moved, loaded or told to forget. In a graph, compiled or of CUDA, nothing is let go:
the call before it has done that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kernels.int_linear import Prepared, ReleasedWeight
from kernels.vq_linear import codes_of

NAME = "codes"


@dataclass(frozen=True, eq=False)
class HeldVectors:
    """Codes into a codebook, of which only a product's layout holds the vectors."""

    weight: ReleasedWeight
    codebook: Tensor  # int8 [k, d]

    @property
    def packed(self) -> Tensor:
        """The codes as they were stored: each is the number of its codeword."""
        return codes_of(self.weight, self.codebook)


Holder = ReleasedWeight | HeldVectors


class HeldCodes(nn.Module):
    """A module whose buffer `codes` may be held by a prepared weight alone."""

    keeps_codes = (
        False  # whether they stay whatever is prepared: letting them go would free nothing
    )

    @property
    def codes(self) -> Tensor:
        """The stored codes, made again where only a product's layout holds them."""
        if NAME not in self._buffers:
            raise AttributeError(NAME)
        held = self._buffers[NAME]
        assert held is not None
        return held if torch.compiler.is_compiling() else _whole(held)

    def forget(self) -> None:
        """Let go of what was made of the stored form; it is made again when it is needed."""
        held = self._buffers.get(NAME)
        if held is not None:
            self._buffers[NAME] = _whole(held)

    def release_codes(self, ready: Prepared) -> None:
        """Hold the codes where a prepared weight has them, if it let its own go, and they are these still."""
        held, weight = self._buffers.get(NAME), ready.weight
        if held is None or not isinstance(weight, ReleasedWeight) or _layout(held) is weight:
            return
        codebook = self._buffers.get("codebook")
        holder = weight if codebook is None else HeldVectors(weight, codebook)
        if weight.let_go() is held or torch.equal(holder.packed, _whole(held)):
            self._buffers[NAME] = _stand_in(held, holder)

    def __getstate__(self) -> dict[str, Any]:
        """Copies hold their codes: oneDNN's layout cannot be copied."""
        held = {NAME: self.codes} if NAME in self._buffers else {}
        return {**self.__dict__, "_buffers": {**self._buffers, **held}}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if f"{prefix}{NAME}" in destination:
            destination[f"{prefix}{NAME}"] = self.codes

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        self.forget()
        super()._load_from_state_dict(state_dict, *args)


def is_released(buffer: Tensor) -> bool:
    """Whether a buffer is what stands for codes that are held elsewhere."""
    return _holder(buffer) is not None


def _holder(buffer: Tensor) -> Holder | None:
    return getattr(buffer, "held_by", None)


def _layout(buffer: Tensor) -> ReleasedWeight | None:
    """The weight whose layout holds what a buffer stands for."""
    holder = _holder(buffer)
    return holder.weight if isinstance(holder, HeldVectors) else holder


def _stand_in(codes: Tensor, holder: Holder) -> Tensor:
    empty = torch.empty_like(codes, device="meta")
    empty.held_by = holder  # type: ignore[attr-defined]
    return empty


def _whole(held: Tensor) -> Tensor:
    """The codes; an ordinary tensor also where they are made in inference mode, for whoever loads others into it."""
    holder = _holder(held)
    if holder is None:
        return held
    with torch.inference_mode(False):
        codes = holder.packed
        return codes.clone() if codes.is_inference() else codes
