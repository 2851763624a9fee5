"""The quantized stand-in for `nn.Linear`: stored integers, an input transform, formats per window.

There is one set of stored integers. Every backend computes from it: simulation in floating point
and integer arithmetic alike (`kernels.int_linear`), and products of 8-bit floats (`kernels.fp8_linear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import kernels
from kernels import measured
from kernels.dispatch import Choice, requested
from kernels.int_linear import After, Branch
from kernels.int_linear.branch import with_branch
from kernels.int_linear.reference import finished
from kernels.quantize_rows import RowCodes, quantize_rows, quantize_rows_fp8

from .last_input import LastInput
from .rounding import (
    rounded_rows,
    rounded_statically,
    static_codes,
)
from .schema import BLOCK_FORMATS, Format, SitePlan, Window
from .side_branch import branch_of, multiplied_in
from .site_tensors import (
    Transform,
    has_float8_sums,
    has_integer_sums,
    has_static_sums,
)
from .step import current_window
from .stored_site import UNPREPARED, StoredSite
from .streaming import is_on_disk, present
from .transforms import BlockRotation, to_input

EXPANDED = "simulate: weight-only, the stored integers are expanded for an ordinary matmul"


class QuantLinear(StoredSite):
    """y = Q_act(x') . Q_weight(W' - L)^T + x' L^T + bias, with the formats of the running step.

    x' = (x / s) R and W' = (W * s) R; L is the low-rank branch, zero where there is none. Where the
    transform is per window, s, R and the codes are those of the running step's window.
    What is stored, and what is made of it, is `StoredSite`'s.
    """

    dqviz_site = True
    basis_of = ""  # full name of the site whose change of basis this one reads too
    folded: Tensor | None = None  # s [i] that the input comes divided by; known where it was made

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
        """An empty layer of the right shapes, to be filled from a checkpoint or by `layer_making`."""
        super().__init__(in_features, out_features, bias, plan, transform, dtype)
        self.windows, self.backend = tuple(windows), backend
        self._taken: dict[int, str] = {}  # backend by window
        self._stream = torch.float32  # the dtype of the last input
        self._sharer: tuple[QuantLinear, ...] = ()  # the site whose change of basis this one reads
        self._transformed: LastInput[Tensor] = LastInput()
        self._codes: LastInput[RowCodes] = LastInput()

    def fold_scale(self, into: tuple[str, ...]) -> None:
        """Take the input as already divided by s, by the linears `into`."""
        self.folded = self.channel_scale.float()
        del self.channel_scale
        self.transform = replace(self.transform, scale=False, folded_into=into)
        self.forget()
        self._forget_inputs()

    def divide_outputs(self, divisor: Tensor) -> None:
        """y -> y / divisor [o], in the scales of the weight's rows and the bias: codes stay as they are."""
        held = "weight" if self.plan.weight is None else "scale"
        setattr(self, held, self.get_buffer(held) / divisor[:, None])
        if hasattr(self, "bias"):
            self.bias = self.bias.float() / divisor
        self.forget()

    def share_basis(self, name: str, other: QuantLinear) -> None:
        """Read the change of basis of `other`, the site `name`; it is then saved there alone."""
        for buffer in self.basis_buffers:
            self._non_persistent_buffers_set.add(buffer)
            setattr(self, buffer, other.get_buffer(buffer))
        self.basis_of, self._sharer = name, (other,)
        if self._transformed is not other._transformed:
            self._transformed = other._transformed
            self._transformed.readers += 1

    def share_codes(self, other: QuantLinear) -> None:
        """Take the row codes that `other` makes of the same tensor, in the same basis and formats."""
        if self._codes is not other._codes:
            self._codes = other._codes
            self._codes.readers += 1

    def input_transform(self, x: Tensor, window: int = 0) -> Tensor:
        """(x / s) R, float32 [..., i]."""
        return to_input(x.float(), *self._own_or_shared_basis(window))

    def _own_or_shared_basis(
        self, window: int
    ) -> tuple[Tensor | None, Tensor | None, BlockRotation | None]:
        alone = self._sharer and torch.compiler.is_compiling()  # has made it ready, for all
        return (self._sharer[0] if alone else self).basis(window)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., i] -> [..., o], in x's dtype."""
        window = current_window(self.windows)
        fmt = self.plan.activations[window]
        backend = self.backend_for(x, window)
        if fmt is not None and (backend != "simulate" or self._has_integer_sums(fmt)):
            codes, branch = self.operands(x, window, backend)
            y = self.product(codes, window, backend, dtype=x.dtype, branch=branch)
        else:
            plain = backend == "triton" and not self.transform.changes_input
            rows = x.reshape(-1, self.in_features) if plain else self._rows(x, window)
            branch = self._branch(rows, x.dtype, window, backend)
            if backend == "triton":
                ready, own = self._ready(window), rows.to(multiplied_in(x.dtype, backend))
                y = kernels.int_linear.int_linear(
                    own, ready, self._bias, None, backend=backend, branch=branch
                )
                self._release(ready)
            else:
                samples = len(x) if x.dim() > 2 else len(rows)
                y = with_branch(self._product(self._rounded(rows, window, samples), window), branch)
        return y.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def _weight_alone(self) -> str:
        """Why the product is an ordinary one where the input is not quantized."""
        if not self._in_vectors:
            return EXPANDED
        return f"simulate: weight-only, {self._decoded}"

    @property
    def _decoded(self) -> str:
        how = "by tiles in every call" if self._by_tiles else "once"
        return f"codes into a codebook are decoded {how}"

    @property
    def _bias(self) -> Tensor | None:
        return self.bias.float() if hasattr(self, "bias") else None

    def _product(self, rows: Tensor, window: int) -> Tensor:
        """With the weight that the codes stand for: kept whole, or decoded tile by tile."""
        if self._by_tiles:
            return kernels.vq_linear(rows, self._vectors(window), self._bias, self.backend)
        return F.linear(rows, self.dequantized_weight(window), self._bias)

    def backend_for(self, x: Tensor, window: int) -> str:
        """The version that takes x [..., i]; in a graph, the one that the last call outside graphs took."""
        if not self.multiplies_codes(window) and not self._weight_only(window):
            return "simulate"
        if torch.compiler.is_compiling():
            if window not in self._taken:
                raise RuntimeError(UNPREPARED)
            return self._taken[window]
        self._stream = x.dtype
        self._taken[window] = self.choice(x, window).backend
        return self._taken[window]

    def multiplies_codes(self, window: int) -> bool:
        """Whether there is a product of codes in a window: of integers, on ranges of each row or of all, or of 8-bit floats."""
        fmt, weight = self.plan.activations[window], self.plan.weight
        if fmt is None:
            return False
        kinds = (has_static_sums, has_float8_sums)
        return self._has_integer_sums(fmt) or any(has(weight, fmt) for has in kinds)

    def _has_integer_sums(self, activation: Format) -> bool:
        return has_integer_sums(self.plan.weight, activation, self.transform.codebook)

    def _weight_only(self, window: int) -> bool:
        """Whether the product of a window is one of stored integers with rows that are not quantized."""
        weight = self.plan.weight
        return self.plan.activations[window] is None and weight is not None and weight.kind == "int"

    def choice(self, x: Tensor, window: int = 0) -> Choice:
        """The version of the product with stored integers for as many rows as x [..., any] has, and why."""
        fmt = self.plan.activations[window]
        rows = x.reshape(-1, x.shape[-1])
        wanted = requested(self.backend)
        if wanted == "auto" and measured.version(x.device) == "triton":
            wanted = "triton"  # where it was measured faster
        if fmt is None and wanted != "triton":
            return Choice("simulate", self._weight_alone)
        if fmt is not None and self._by_tiles:
            own = self._vectors(window), self.backend, fmt.bits, fmt.symmetric
            found = kernels.vq_linear.choose(rows, *own)
            return found._replace(why=f"{found.why}; {self._decoded}")
        if fmt is not None and fmt.kind == "fp8":
            return kernels.fp8_linear.choose(rows, self.out_features, self.backend)
        ready = self._ready(window)
        if fmt is None:
            return kernels.int_linear.choose(rows, ready, None, backend=self.backend)
        found = kernels.int_linear.choose(rows, ready, fmt.bits, fmt.symmetric, self.backend)
        return found._replace(why=f"{found.why}; {self._decoded}") if self._in_vectors else found

    def operands(self, x: Tensor, window: int, backend: str) -> tuple[RowCodes, Branch | None]:
        """What the integer product takes of x [..., i]: codes [m, i], and the branch where there is one."""
        if not self.transform.rank:
            return self.codes_of(x, window, backend), None
        rows = self._rows(x, window)
        codes = self.codes_of(x, window, backend, rows)
        return codes, self._branch(rows, x.dtype, window, backend)

    def _branch(self, rows: Tensor, dtype: torch.dtype, window: int, backend: str) -> Branch | None:
        if not self.transform.rank:
            return None
        down, up = self._part("down", window), self._part("up", window)
        return branch_of(rows, down, up, multiplied_in(dtype, backend))

    def codes_of(
        self, x: Tensor, window: int, backend: str, rows: Tensor | None = None
    ) -> RowCodes:
        """Codes of x [..., i] as a backend multiplies them, [m, i]; `rows` are its transformed rows where known."""

        def made(x: Tensor) -> RowCodes:
            if rows is not None:
                return self._coded(rows, window, backend)
            codes = self._codes_in_blocks(x, window) if backend == "triton" else None
            if codes is not None:
                return codes
            shared = self._codes.readers > 1  # nobody asks for the rows again, then
            own = self._rows_of(x, window) if shared else self._rows(x, window)
            return self._coded(own, window, backend)

        fmt = self.plan.activations[window]
        if fmt is not None and fmt.static:
            known = self._rows(x, window) if rows is None else rows
            return self._coded(known, window, backend)
        return self._codes.of(x, (window, backend == "triton"), made)

    def _codes_in_blocks(self, x: Tensor, window: int) -> RowCodes | None:
        """Codes in the change of basis of a block rotation, in one operation; None where it has no version."""
        fmt, (scale, signs, blocks) = (
            self.plan.activations[window],
            self._own_or_shared_basis(window),
        )
        if blocks is None or signs is not None or fmt is None:
            return None
        if kernels.block_rotation.obstacle(self.in_features, len(blocks.first), x.device):
            return None
        return kernels.block_rotation.block_rotation(
            x.reshape(-1, self.in_features), *blocks, fmt.bits, fmt.symmetric,
            channel_scale=scale, backend="triton",
        )  # fmt: skip

    def makes_codes_with(self, other: QuantLinear) -> bool:
        """Whether codes of a tensor are made once for this layer and another."""
        return self._codes is other._codes

    def product(
        self,
        codes: RowCodes,
        window: int,
        backend: str,
        after: After = None,
        dtype: torch.dtype = torch.float32,
        branch: Branch | None = None,
    ) -> Tensor:
        """Of codes [m, i] with the stored ones, the branch, and what comes after it, [m, o].

        s d (sum (n - z)(q - z_w)) + b', with b' = b + W k s where static ranges lie about a shift k.
        """
        fmt = self.plan.activations[window]
        assert fmt is not None
        if fmt.static:
            bias = self._once(f"bias of {window}", window, self._folded_bias)
        else:
            bias = self._bias
        if self._by_tiles:
            vectors = self._vectors(window)
            return kernels.vq_linear.multiply(
                codes, vectors, bias, fmt.bits, backend, after, dtype, branch
            )
        ready = self._ready(window)
        if fmt.kind == "fp8" and branch is None:
            return kernels.fp8_linear.multiply(codes, ready, bias, backend, after, dtype)
        if fmt.kind == "fp8":
            y = kernels.fp8_linear.multiply(codes, ready, bias, backend)
            return finished(y, after, dtype, branch)
        y = kernels.int_linear.multiply(codes, ready, bias, fmt.bits, backend, after, dtype, branch)
        self._release(ready)
        return y

    def _release(self, ready: Any) -> None:
        """Let go of codes that a product's layout holds, but in a graph."""
        if not torch.compiler.is_compiling():
            self.release_codes(ready)

    def _coded(self, rows: Tensor, window: int, backend: str) -> RowCodes:
        fmt = self.plan.activations[window]
        assert fmt is not None
        if not fmt.static:
            version = "triton" if backend == "triton" else "simulate"
            if fmt.kind == "fp8":
                return quantize_rows_fp8(rows, backend=version)
            return quantize_rows(rows, fmt.bits, fmt.symmetric, backend=version)
        scale = self.act_scale[window]
        zero = None if fmt.symmetric else self.act_zero[window]
        codes = static_codes(rows, fmt, scale, zero, self._about(window))
        zeros = None if zero is None else zero.float().expand(len(rows), 1)
        return RowCodes(codes, scale.expand(len(rows), 1), zeros)

    def _rows(self, x: Tensor, window: int) -> Tensor:
        """The transformed input [m, i], once for all sites that share the change of basis."""
        if not self.transform.changes_input:
            return self._rows_of(x, window)
        return self._transformed.of(x, window, lambda x: self._rows_of(x, window))

    def _rows_of(self, x: Tensor, window: int) -> Tensor:
        return self.input_transform(x.reshape(-1, self.in_features), window)

    def _rounded(self, rows: Tensor, window: int, samples: int) -> Tensor:
        """What the activation codes of rows [m, i] stand for, in this window's format."""
        fmt = self.plan.activations[window]
        if fmt is None:
            return rows
        if fmt.static:
            zero = None if fmt.symmetric else self.act_zero[window]
            return rounded_statically(rows, fmt, self.act_scale[window], zero, self._about(window))
        return rounded_rows(rows, fmt, samples)

    def _about(self, window: int) -> Tensor | None:
        """k [i]: what the static range lies about, in whole steps; the stored shift snaps to them."""
        if not self.transform.shift:
            return None
        return self._once(f"shift of {window}", window, self._whole_shift)

    def _whole_shift(self, window: int) -> Tensor:
        v = self.shift.float()
        if self.transform.migration:
            v = v / self.migration.float()
        return (v / self.act_scale[window]).round()

    def _forget_inputs(self) -> None:
        self._transformed.clear()
        self._codes.clear()

    def _folded_bias(self, window: int) -> Tensor | None:
        bias, about = self._bias, self._about(window)
        if about is None:
            return bias
        folded = self._dequantize(window) @ (about * self.act_scale[window])  # once: not kept
        return folded if bias is None else bias + folded

    def why(self, rows: int) -> tuple[str, str]:
        """Backend that runs for `rows` rows like those of the last call, in the first window, and one sentence why."""
        if is_on_disk(self):
            with present(self):
                backend, why = self.why(rows)
            return backend, f"{why}; the layer lies on disk and is read when it runs"
        fmt, weight = self.plan.activations[0], self.plan.weight
        if fmt is None and not self._weight_only(0):
            return "simulate", self._weight_alone
        if fmt is None or self.multiplies_codes(0):
            x = torch.empty(rows, self.in_features, device=self.device, dtype=self._stream)
            return self.choice(x)
        lacks = "has no integer sums per row"
        if fmt.static:
            lacks = "has no kernel here: integer products take their row scales from the rows"
        elif weight is not None and weight.kind in BLOCK_FORMATS:
            lacks = "is a simulated format, no kernel here computes with it"
        elif self._in_vectors and self.transform.codebook != "int8":
            lacks = f"has no integer sums: its codewords are in {self.transform.codebook}, not int8"
        return "simulate", f"simulate: {weight or 'float'} x {fmt} {lacks}"

    def extra_repr(self) -> str:
        """Shape, formats and transform."""
        activations = "/".join(str(f or "float") for f in self.plan.activations)
        return f"{self.in_features} -> {self.out_features}, weight {self.plan.weight or 'float'}, input {activations}, {self.transform}"

    def _apply(self, fn: Any, recurse: bool = True) -> QuantLinear:
        """Move the layer; scales and codes keep their dtype whatever the model is cast to."""
        cast = {"weight"} if self.transform.learned_bias else {"bias", "weight"}
        self.forget()
        exact = {n: b for n, b in self.named_buffers(recurse=False) if n not in cast}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            if self.get_buffer(name).dtype != before.dtype:
                setattr(self, name, before.to(self.get_buffer(name).device))
        self._forget_inputs()
        return self
