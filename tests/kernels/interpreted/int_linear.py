"""The integer product in Triton, interpreted: exact sums, and outputs against float64, from stored integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.int_linear import (
    Branch,
    GatedResidual,
    PackedWeight,
    accumulate,
    custom_op,
    int_linear,
    triton_impl,
)
from kernels.int_linear.cases import example_weight, factors
from kernels.int_linear.operand import operand
from kernels.int_linear.weight import After
from kernels.quantize_rows import custom_op as row_op

# m, k, n; the last has more rows of tiles than one group of the order in which they run
SHAPES = [(77, 130, 90), (128, 256, 128), (3, 33, 5), (130, 128, 129), (1050, 32, 130)]


Rows = tuple[Tensor, Tensor | None, Tensor | None]  # without a scale they are floating point


def floats_of(m: int, k: int) -> Tensor:
    """Seeded rows, among them zeros, large and small ones."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.3
    for i, change in enumerate((0.0, 1e4, 1e-6)):
        x[i % m] *= change
    return x


def rows_of(m: int, k: int, symmetric: bool, bits: int = 8) -> tuple[Tensor, Tensor, Tensor | None]:
    """Their int8 codes."""
    codes, scale, zero = row_op.as_int8(floats_of(m, k), bits, symmetric)
    return codes, scale, None if symmetric else zero


def product(
    rows: Rows,
    weight: PackedWeight,
    bias: Tensor | None = None,
    after: After = None,
    dtype: torch.dtype = torch.float32,
    branch: Branch | None = None,
) -> Tensor:
    """What the kernel gives."""
    own, parts = operand(weight), branch or (None, None)
    gate, residual = after if isinstance(after, GatedResidual) else (None, None)
    return triton_impl.int_linear(
        *rows, *own[:4], bias, gate, residual, own.group, after == "gelu", dtype, *parts
    )


def exact(
    rows: Rows,
    weight: PackedWeight,
    bias: Tensor | None = None,
    after: After = None,
    branch: Branch | None = None,
) -> Tensor:
    """The same in float64, from the stored codes and nothing of the op."""
    codes, scale, zero = rows
    a = codes.double() - (0 if zero is None else zero.double())
    a = a if scale is None else a * scale.double()
    group = torch.arange(weight.in_features) // (weight.group_size or weight.in_features)
    q = weight.codes().double() - weight.zeros().double()[:, group]
    y = a @ (q * weight.scale.double()[:, group]).T
    y = y if bias is None else y + bias.double()
    y = y if branch is None else y + branch.rows.double() @ branch.up.double().T
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


@pytest.mark.parametrize("act_symmetric", [True, False], ids=["rows", "rows-with-zeros"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zeros"])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_integer_sums_are_exact(
    m: int, k: int, n: int, bits: int, symmetric: bool, act_symmetric: bool
) -> None:
    weight, rows = example_weight(n, k, bits, symmetric), rows_of(m, k, act_symmetric)
    a = rows[0].double() - (0 if rows[2] is None else rows[2].double())
    expected = a @ (weight.codes().double() - weight.zeros().double()).T
    assert torch.equal(product(rows, weight, dtype=torch.int32).double(), expected)


@pytest.mark.parametrize("act_symmetric", [True, False], ids=["rows", "rows-with-zeros"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES[:3])
def test_outputs_with_scales_and_bias(
    m: int, k: int, n: int, bits: int, act_symmetric: bool
) -> None:
    weight, rows = example_weight(n, k, bits, symmetric=False), rows_of(m, k, act_symmetric)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for b in (bias, None):
        assert_close(product(rows, weight, b), exact(rows, weight, b), 1e-6)


@pytest.mark.parametrize("act_symmetric", [True, False], ids=["rows", "rows-with-zeros"])
@pytest.mark.parametrize(
    ("bits", "symmetric", "group"),
    [
        (4, True, 64),
        (4, True, 128),
        (4, False, 64),
        (4, False, 128),
        (2, False, 64),
        (8, True, 64),
        (8, True, 128),
        (6, False, 128),
    ],
)
@pytest.mark.parametrize(("m", "k", "n"), [(77, 330, 70), (64, 256, 64)])
def test_weights_in_groups(
    m: int, k: int, n: int, bits: int, symmetric: bool, group: int, act_symmetric: bool
) -> None:
    weight, rows = example_weight(n, k, bits, symmetric, group), rows_of(m, k, act_symmetric)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    # zeros of rows are taken off a sum that is larger than what remains
    tolerance = 1e-6 if act_symmetric else 3e-6
    assert_close(product(rows, weight, bias), exact(rows, weight, bias), tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(100) is inf
@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("bits", [4, 8])
def test_gelu_and_gated_residual_in_the_same_pass(bits: int, group: int | None) -> None:
    b, t, k, n = 3, 25, 130, 70
    weight, rows = example_weight(n, k, bits, True, group), rows_of(b * t, k, True)
    generator = torch.Generator().manual_seed(bits)
    bias, gate = torch.randn(n, generator=generator), torch.randn(b, n, generator=generator)
    residual = torch.randn(b * t, n, generator=generator)
    rows[1].clamp_(max=0.03)  # GELU of 1e4 would say nothing
    for after in ("gelu", GatedResidual(gate, residual)):
        got = product(rows, weight, bias, after)
        assert_close(got, exact(rows, weight, bias, after), 2e-6)


def branch_of(m: int, n: int, rank: int, dtype: torch.dtype = torch.float32) -> Branch:
    """Seeded factors, that of the rows in `dtype`."""
    h, up = factors(m, n, rank)
    return Branch(h.to(dtype), up)


@pytest.mark.parametrize("rank", [1, 32, 70])
@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 64)])
@pytest.mark.parametrize("quantized", [True, False], ids=["codes", "floats"])
def test_a_branch_of_any_rank(bits: int, group: int | None, rank: int, quantized: bool) -> None:
    m, k, n = 40, 130, 70
    weight = example_weight(n, k, bits, symmetric=False, group_size=group)
    rows = rows_of(m, k, True) if quantized else (floats_of(m, k), None, None)
    branch, bias = branch_of(m, n, rank), torch.ones(n)
    got = product(rows, weight, bias, branch=branch)
    assert_close(got, exact(rows, weight, bias, branch=branch), 1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(100) is inf
@pytest.mark.parametrize("bits", [4, 8])
def test_a_branch_comes_before_gelu_and_gate(bits: int) -> None:
    b, t, k, n = 3, 25, 130, 70
    weight, rows = example_weight(n, k, bits), rows_of(b * t, k, True)
    generator, branch = torch.Generator().manual_seed(bits), branch_of(b * t, n, 8)
    gate = torch.randn(b, n, generator=generator)
    residual = torch.randn(b * t, n, generator=generator)
    rows[1].clamp_(max=0.03)
    for after in ("gelu", GatedResidual(gate, residual)):
        got = product(rows, weight, None, after, branch=branch)
        assert_close(got, exact(rows, weight, None, after, branch), 2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_branches_in_half_precision_and_views_of_them(dtype: torch.dtype, tolerance: float) -> None:
    weight, rows = example_weight(40, 128, 8), rows_of(10, 128, True)
    rows[1].clamp_(max=1e-2)
    h, up = branch_of(10, 40, 12, dtype)
    expected = exact(rows, weight, branch=Branch(h, up))
    wide = torch.full((10, 40), 99.0, dtype=dtype)
    wide[:, 5:17] = h
    for view in (h, wide[:, 5:17], h.T.contiguous().T):
        got = product(rows, weight, None, None, dtype, Branch(view, up.T.contiguous().T))
        assert got.dtype == dtype
        assert_close(got, expected, tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(100) is inf
def test_a_tile_is_looked_up_by_what_comes_after_and_changes_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles are measured with branches and gates in 16 bit: those in 32 are not asked for."""
    asked: list[str] = []

    def tile(op: str, *about: object, after: str, **kind: object) -> dict[str, int]:
        assert (op, *about[1:], kind) == ("int_linear", 70, 128, 40, {"packed": True, "group": 0})
        asked.append(after)
        return {"BM": 64, "BN": 32, "num_warps": 4, "num_stages": 2}

    weight, rows = example_weight(40, 128, 4), rows_of(70, 128, True)
    gated = GatedResidual(torch.ones(2, 40).half(), torch.ones(70, 40).half())
    branch = branch_of(70, 40, 8, torch.float16)
    calls = [(None, None), ("gelu", None), (gated, None), (None, branch), (gated, branch)]
    expected = [product(rows, weight, None, after, branch=b) for after, b in calls]
    monkeypatch.setattr(triton_impl.tiles, "tile", tile)
    got = [product(rows, weight, None, after, branch=b) for after, b in calls]
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b.double(), 2e-6)
    assert asked == ["", "gelu", "gate", "branch", "branch, gate"]
    product(rows, weight, branch=branch_of(70, 40, 8))
    product(rows, weight, None, GatedResidual(gated.gate.float(), gated.residual.float()))
    assert len(asked) == len(calls)


# The interpreter cuts bfloat16 off where a GPU rounds: one unit in the last place instead of half.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_precision_streams_and_outputs(dtype: torch.dtype, tolerance: float) -> None:
    weight, rows = example_weight(40, 128, 8), rows_of(10, 128, True)
    rows[1].clamp_(max=1e-2)
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(2, 80, generator=generator).to(dtype)  # gates as one linear gives them
    residual = torch.randn(40, 10, generator=generator).to(dtype).T
    after = GatedResidual(wide[:, 40:], residual)
    got = product(rows, weight, None, after, dtype)
    assert got.dtype == dtype
    assert_close(got, exact(rows, weight, None, after), tolerance)


def test_views_of_rows_and_bias_and_none_at_all() -> None:
    weight, (codes, scale, _) = example_weight(9, 40, 4), rows_of(6, 40, True)
    wide = torch.full((6, 64), 99, dtype=torch.int8)
    wide[:, 5:45] = codes
    expected = product((codes, scale, None), weight)
    for view in (wide[:, 5:45], codes.T.contiguous().T):
        assert torch.equal(product((view, scale, None), weight), expected)
    bias = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))[:, 1]
    rows = (codes, scale, None)
    assert torch.equal(product(rows, weight, bias), product(rows, weight, bias.contiguous()))
    assert_close(product(rows, weight, bias), exact(rows, weight, bias), 1e-6)
    assert product((codes[:0], scale[:0], None), weight).shape == (0, 9)


def test_the_largest_operands_do_not_overflow() -> None:
    codes = torch.full((2, 4608), -127, dtype=torch.int8)
    q = torch.zeros(3, 4608, dtype=torch.uint8)
    q[1], q[2, ::2] = 255, 255
    zero = torch.full((3, 1), 255, dtype=torch.int16)
    weight = PackedWeight.from_codes(q, 8, torch.ones(3, 1), zero)
    rows = (codes, torch.ones(2, 1), torch.tensor([[127.0], [-128.0]]))
    a = codes.double() - rows[2].double()  # type: ignore[union-attr]
    expected = a @ (q.double() - 255).T
    assert float(expected.abs().max()) > 2**28
    assert torch.equal(product(rows, weight, dtype=torch.int32).double(), expected)


@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zeros"])
@pytest.mark.parametrize(
    ("bits", "group"), [(3, None), (4, None), (8, None), (4, 64), (4, 128), (6, 128)]
)
@pytest.mark.parametrize(("m", "k", "n"), [(40, 330, 70), (3, 33, 5)])
def test_rows_that_are_not_quantized(
    m: int, k: int, n: int, bits: int, group: int | None, symmetric: bool
) -> None:
    weight, x = example_weight(n, k, bits, symmetric, group), floats_of(m, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for b in (bias, None):
        got = product((x, None, None), weight, b)
        assert_close(got, exact((x, None, None), weight, b), 1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("symmetric", [True, False], ids=["weights", "weights-with-zeros"])
def test_every_weight_is_exact_in_16_bits(bits: int, symmetric: bool) -> None:
    """Rows of an identity read the weight; without scales it is whole numbers."""
    k = 160
    stored = example_weight(7, k, bits, symmetric)
    weight = PackedWeight(stored.packed, bits, k, torch.ones(7, 1), stored.zero)
    for dtype in (torch.bfloat16, torch.float16):
        eye = (torch.eye(k, dtype=dtype), None, None)
        assert torch.equal(product(eye, weight, dtype=dtype).double(), exact(eye, weight))


@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_precision_rows_views_and_what_comes_after(
    dtype: torch.dtype, tolerance: float, group: int | None
) -> None:
    b, t, k, n = 2, 15, 130, 70
    weight, generator = example_weight(n, k, 4, False, group), torch.Generator().manual_seed(k)
    wide = torch.randn(b * t, 150, generator=generator).to(dtype)
    x = wide[:, 7 : 7 + k]
    x[3] = 0.0
    bias, gate = torch.randn(n, generator=generator), torch.randn(b, n, generator=generator)
    residual = torch.randn(b * t, n, generator=generator).to(dtype)
    for after in (None, "gelu", GatedResidual(gate.to(dtype), residual)):
        got = product((x, None, None), weight, bias, after, dtype)
        assert got.dtype == dtype
        assert_close(got, exact((x, None, None), weight, bias, after), tolerance)
    expected = product((x.contiguous(), None, None), weight, bias)
    for view in (x, x.T.contiguous().T):
        assert torch.equal(product((view, None, None), weight, bias), expected)
    assert product((x[:0], None, None), weight).shape == (0, n)


def test_the_custom_op_says_what_the_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, rows = example_weight(20, 100, 4, symmetric=False), rows_of(8, 100, False)
    own = operand(weight)
    for dtype in (torch.float32, torch.int32):
        branch = branch_of(8, 20, 4)
        arguments = (*rows, *own[:4], None, None, None, own.group, False, dtype, *branch)
        got = triton_impl.int_linear(*arguments)
        torch.testing.assert_close(got, custom_op.int_linear(*arguments), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(custom_op, "int_linear", triton_impl.int_linear)
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)
    x = torch.randn(8, 100, generator=torch.Generator().manual_seed(2))
    sums = [accumulate(x, weight, 8, False, backend) for backend in ("triton", "simulate")]
    assert torch.equal(*sums)
    got = int_linear(x, weight, None, None, backend="triton")
    assert_close(got, exact((x, None, None), weight), 1e-6)
