"""The product of 8-bit floats in Triton, interpreted: outputs against float64, from the codes."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from kernels.fp8_linear import OP, Float8Weight, custom_op, fp8_linear, triton_impl
from kernels.fp8_linear.cases import CALLS, example_weight
from kernels.int_linear import After, GatedResidual
from kernels.quantize_rows import quantize_rows_fp8
from kernels.quantize_rows import triton_impl as row_impl

# m, k, n; the last has more rows of tiles than one group of the order in which they run
SHAPES = [(77, 130, 90), (128, 256, 128), (3, 33, 5), (130, 128, 129), (1050, 32, 130)]
# Matrix units of GPUs before sm_100 add in fewer bits than float32 has; the interpreter does not.
EXACT = 1e-6 if os.environ.get("TRITON_INTERPRET") == "1" else OP.tolerance

Rows = tuple[Tensor, Tensor]


def floats_of(m: int, k: int) -> Tensor:
    """Seeded rows, among them zeros, large and small ones."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.3
    for i, change in enumerate((0.0, 1e4, 1e-6)):
        x[i % m] *= change
    return x


def rows_of(m: int, k: int) -> Rows:
    """Their codes and scales."""
    codes, scale, _ = quantize_rows_fp8(floats_of(m, k), backend="simulate")
    return codes, scale


def product(
    rows: Rows,
    weight: Float8Weight,
    bias: Tensor | None = None,
    after: After = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What the kernel gives."""
    gate, residual = after if isinstance(after, GatedResidual) else (None, None)
    parts = (*rows, weight.codes, weight.scale, bias, gate, residual)
    return triton_impl.fp8_linear(*parts, after == "gelu", dtype)


def exact(
    rows: Rows, weight: Float8Weight, bias: Tensor | None = None, after: After = None
) -> Tensor:
    """The same in float64, from the codes and nothing of the op."""
    a, w = (
        codes.double() * scale.double() for codes, scale in (rows, (weight.codes, weight.scale))
    )
    y = a @ w.T if bias is None else a @ w.T + bias.double()
    if after == "gelu":
        return torch.nn.functional.gelu(y, approximate="tanh")
    if isinstance(after, GatedResidual):
        gate = after.gate.double().repeat_interleave(len(y) // len(after.gate), 0)
        return after.residual.double() + gate * y
    return y


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Row by row, because rows differ by ten orders of magnitude."""
    off = (got.double() - expected).norm(dim=1)
    assert bool((off <= tolerance * expected.norm(dim=1) + 1e-12).all()), off


@pytest.mark.parametrize("promoted", [True, False])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_outputs_against_float64(
    m: int, k: int, n: int, promoted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_impl, "_promoted", lambda device: promoted)
    weight, rows = example_weight(n, k), rows_of(m, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for b in (bias, None):
        assert_close(product(rows, weight, b), exact(rows, weight, b), EXACT)


def test_every_code_is_multiplied_as_what_it_stands_for() -> None:
    """Rows of an identity read the weight, which holds every finite code."""
    every = torch.arange(256, dtype=torch.uint8)
    codes = every[(every & 127) != 127].view(torch.float8_e4m3fn).view(2, 127)
    weight, one = Float8Weight(codes, torch.ones(2, 1)), torch.eye(127).to(torch.float8_e4m3fn)
    got = product((one, torch.ones(127, 1)), weight)
    assert torch.equal(got, codes.float().T)


def test_the_largest_sums_do_not_overflow() -> None:
    full = torch.full((5, 4608), 448.0).to(torch.float8_e4m3fn)
    rows, weight = (full[:2], torch.full((2, 1), 1e20)), Float8Weight(full, torch.ones(5, 1))
    assert_close(product(rows, weight), exact(rows, weight), EXACT)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(100) is inf
def test_gelu_and_gated_residual_in_the_same_pass() -> None:
    b, t, k, n = 3, 25, 130, 70
    weight, rows = example_weight(n, k), rows_of(b * t, k)
    generator = torch.Generator().manual_seed(n)
    bias, gate = torch.randn(n, generator=generator), torch.randn(b, n, generator=generator)
    residual = torch.randn(b * t, n, generator=generator)
    for after in ("gelu", GatedResidual(gate, residual)):
        assert_close(
            product(rows, weight, bias, after), exact(rows, weight, bias, after), 2 * EXACT
        )


# The interpreter cuts bfloat16 off where a GPU rounds: one unit in the last place instead of half.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_precision_out(dtype: torch.dtype, tolerance: float) -> None:
    b, t, k, n = 2, 15, 128, 70
    weight, rows = example_weight(n, k), rows_of(b * t, k)
    rows[1][1:3] = 1e-3  # neither is for float16
    generator = torch.Generator().manual_seed(n)
    gate, residual = (torch.randn(r, n, generator=generator).to(dtype) for r in (b, b * t))
    for after in (None, GatedResidual(gate, residual)):
        got = product(rows, weight, None, after, dtype)
        assert got.dtype == dtype
        assert_close(got, exact(rows, weight, None, after), max(tolerance, EXACT))


def test_views_of_every_operand_and_no_rows_at_all() -> None:
    b, t, k, n = 2, 3, 40, 9
    weight, (codes, scale) = example_weight(n, k), rows_of(b * t, k)
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(n, 3, generator=generator)[:, 1]
    gate, residual = (torch.randn(r, n + 4, generator=generator)[:, 2:-2] for r in (b, b * t))
    after = GatedResidual(gate, residual)
    dense = GatedResidual(gate.contiguous(), residual.contiguous())
    expected = product((codes, scale), weight, bias.contiguous(), dense)

    def within(t: Tensor) -> Tensor:
        wide = torch.full((len(t), 64), 127, dtype=torch.uint8)  # nan
        wide[:, 5:45] = t.view(torch.uint8)
        return wide.view(t.dtype)[:, 5:45]

    def turned(t: Tensor) -> Tensor:
        return t.view(torch.uint8).T.contiguous().view(t.dtype).T

    scales = torch.cat([scale, scale], 1)[:, :1]
    for view in (within, turned):
        own = Float8Weight(view(weight.codes), torch.cat([weight.scale] * 2, 1)[:, :1])
        assert torch.equal(product((view(codes), scales), own, bias, after), expected)
    assert product((codes[:0], scale[:0]), weight).shape == (0, n)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy interprets: inf / inf
def test_a_row_of_nan_or_inf_harms_no_other() -> None:
    weight, x = example_weight(9, 40), floats_of(6, 40)

    def coded(x: Tensor) -> Rows:
        return row_impl.quantize_rows(x, 8, True, torch.float8_e4m3fn)[:2]

    expected = product(coded(x), weight)
    x[4, 3], x[5, 7] = float("nan"), float("inf")
    got = product(coded(x), weight)
    assert torch.equal(got[:4], expected[:4])
    assert not torch.isfinite(got[4:]).any()


def test_the_custom_op_says_what_the_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in CALLS.values():
        arguments = call()
        got, told = triton_impl.fp8_linear(*arguments), custom_op.fp8_linear(*arguments)
        assert got.dtype == told.dtype
        assert_close(got, told.double(), 8e-3)
    monkeypatch.setattr(custom_op, "fp8_linear", triton_impl.fp8_linear)
    for name in ("kernels.fp8_linear.custom_op", "kernels.quantize_rows"):
        monkeypatch.setattr(f"{name}.float8_obstacle", lambda *about: None)
    weight, x = example_weight(20, 100), floats_of(8, 100)
    got = fp8_linear(x, weight, None, "triton")
    assert_close(got, exact(rows_of(8, 100), weight), EXACT)
    assert_close(got, fp8_linear(x, weight, None, "simulate").double(), EXACT)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(100) is inf
def test_a_tile_is_looked_up_by_what_comes_after_and_changes_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles are measured with gates in 16 bit: those in 32 are not asked for."""
    asked: list[tuple[object, ...]] = []

    def tile(op: str, device: torch.device, *shape: int, after: str) -> dict[str, int]:
        asked.append((op, *shape, after))
        return {"BM": 64, "BN": 32, "num_warps": 4, "num_stages": 2}

    weight, rows = example_weight(40, 128), rows_of(70, 128)
    gate, residual = torch.ones(2, 40), torch.ones(70, 40)
    afters = (None, "gelu", GatedResidual(gate.half(), residual.half()))
    expected = [product(rows, weight, None, after) for after in afters]
    monkeypatch.setattr(triton_impl.tiles, "tile", tile)
    got = [product(rows, weight, None, after) for after in afters]
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b.double(), EXACT)
    assert asked == [("fp8_linear", 70, 128, 40, after) for after in ("", "gelu", "gate")]
    product(rows, weight, None, GatedResidual(gate, residual))
    assert len(asked) == 3
