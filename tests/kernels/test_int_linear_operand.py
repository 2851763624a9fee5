"""What integer linears multiply: the operand of a GPU, rows quantized elsewhere; and what comes after the product."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.int_linear import (
    GatedResidual,
    PackedWeight,
    accumulate,
    custom_op,
    int_linear,
    multiply,
    operand,
)
from kernels.int_linear.cases import example_weight
from kernels.quantize_rows import RowCodes, quantize_rows, quantize_rows_fp8
from kernels.quantize_rows import custom_op as row_op
from tests.kernels.linears import exact, needs_onednn, relative, rows_of


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 9),
    k=st.integers(1, 300),
    bits=st.integers(1, 8),
    symmetric=st.booleans(),
    act_symmetric=st.booleans(),
    group=st.sampled_from([None, 64, 128]),
    seed=st.integers(0, 99),
)
def test_the_operand_of_a_gpu_holds_the_stored_integers(
    n: int, k: int, bits: int, symmetric: bool, act_symmetric: bool, group: int | None, seed: int
) -> None:
    """The custom op on the CPU says what the kernel computes from the operand; the definition, from the codes."""
    weight = example_weight(n, k, bits, symmetric, group, seed)
    x, bias = rows_of(4, k, seed), rows_of(1, n, seed)[0]
    q = weight.integers()
    with patch.object(custom_op, "triton_obstacle", lambda *about: None):
        if len(weight.scale[0]) > 1 and (int(q.min()) < -128 or int(q.max()) > 127):
            with pytest.raises(RuntimeError, match="do not fit 8-bit operands"):
                int_linear(x, weight, bias, 8, act_symmetric, "triton")
            return
        got = int_linear(x, weight, bias, 8, act_symmetric, "triton")
        if group is None or group >= k:
            sums = [
                accumulate(x, weight, 8, act_symmetric, backend)
                for backend in ("triton", "simulate")
            ]
            assert torch.equal(*sums)
    expected = exact(x, weight, bias, 8, act_symmetric)
    assert (got.double() - expected).norm() <= 1e-6 * (expected.norm() + bias.norm())


@settings(deadline=None, max_examples=40)
@given(
    k=st.integers(1, 300),
    bits=st.integers(1, 8),
    symmetric=st.booleans(),
    group=st.sampled_from([None, 64, 128]),
    seed=st.integers(0, 99),
)
def test_weight_only_products_take_the_same_operand(
    k: int, bits: int, symmetric: bool, group: int | None, seed: int
) -> None:
    weight = example_weight(5, k, bits, symmetric, group, seed)
    x, bias, q = rows_of(4, k, seed), rows_of(1, 5, seed)[0], weight.integers()
    with patch.object(custom_op, "triton_obstacle", lambda *about: None):
        if len(weight.scale[0]) > 1 and (int(q.min()) < -128 or int(q.max()) > 127):
            with pytest.raises(RuntimeError, match="do not fit 8-bit operands"):
                int_linear(x, weight, bias, None, backend="triton")
            return
        got = int_linear(x, weight, bias, None, backend="triton")
    expected = exact(x, weight, bias, None, True)
    assert (got.double() - expected).norm() <= 1e-6 * (expected.norm() + bias.norm())


@pytest.mark.parametrize("k", [1, 64, 65, 128, 200])
def test_nibbles_and_back(k: int) -> None:
    q = torch.randint(-8, 8, (3, k), generator=torch.Generator().manual_seed(k), dtype=torch.int8)
    packed = operand.nibbles(q)
    assert packed.shape == (3, 64 * -(-k // 128))
    assert torch.equal(operand.from_nibbles(packed, k), q)


def test_what_triton_cannot_multiply_is_refused_with_its_reason() -> None:
    x = rows_of(3, 256)
    far = example_weight(8, 256, 4, symmetric=False)
    assert far.zero is not None
    far.zero[3] = 300
    for weight, act_bits, reason in (
        (far, None, "codes less zeros beyond 256 are not exact in 16 bits"),
        (example_weight(8, 256, 4, group_size=32), None, "weight groups of 32 have no Triton"),
        (example_weight(8, 256, 8, False, 64), None, "do not fit 8-bit operands"),
        (example_weight(8, 256, 4, group_size=32), 8, "weight groups of 32 have no Triton version"),
        (example_weight(8, 256, 8, False, 64), 8, "do not fit 8-bit operands"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            int_linear(x, weight, None, act_bits, backend="triton")


@pytest.mark.parametrize(
    ("bits", "codes", "zero", "fits"),
    [
        (8, (1, 255), 128, True),
        (8, (0, 128), 0, False),  # 128
        (8, (0, 127), 0, True),
        (6, (0, 63), 129, False),  # -129
        (6, (1, 63), 129, True),
        (4, (0, 15), -112, True),
        (4, (0, 15), -113, False),  # 128
        (4, (15, 15), 135, True),
        (4, (15, 15), 136, False),  # z - 8 is 128, though q - z is -121
        (4, (0, 0), -121, False),  # z - 8 is -129, though q - z is 121
    ],
)
def test_groups_whose_integers_would_wrap_are_refused(
    bits: int, codes: tuple[int, int], zero: int, fits: bool
) -> None:
    k, n = 128, 2
    q = torch.tensor(codes, dtype=torch.uint8).repeat(n, k // 2)
    zeros = torch.full((n, 2), 2 ** (bits - 1), dtype=torch.int16)
    zeros[1, 1] = zero  # one group of one row
    q[0], q[1, :64] = 2 ** (bits - 1), 2 ** (bits - 1)
    weight = PackedWeight.from_codes(q, bits, torch.full((n, 2), 0.01), zeros, 64)
    x = rows_of(3, k)
    with patch.object(custom_op, "triton_obstacle", lambda *about: None):
        if not fits:
            with pytest.raises(RuntimeError, match=r"leave -128\.\.127 do not fit 8-bit operands"):
                int_linear(x, weight, backend="triton")
            return
        got = int_linear(x, weight, backend="triton")
    assert relative(got, exact(x, weight, None, 8, True)) < 1e-6


@pytest.mark.parametrize("backend", ["simulate", pytest.param("integer", marks=needs_onednn)])
def test_gelu_or_gate_and_residual_come_after_the_bias(backend: str) -> None:
    weight, x = example_weight(20, 64, 4), rows_of(6, 64)
    bias, gate, residual = rows_of(1, 20, 1)[0], rows_of(2, 20, 2), rows_of(6, 20, 3)
    plain = int_linear(x, weight, bias, backend=backend)
    got = int_linear(x, weight, bias, backend=backend, after="gelu")
    torch.testing.assert_close(got, torch.nn.functional.gelu(plain, approximate="tanh"))
    for dtype in (torch.float32, torch.bfloat16):
        after = GatedResidual(gate.to(dtype), residual.to(dtype))
        got = int_linear(x.to(dtype), weight, bias, backend=backend, after=after)
        gates = after.gate.float().repeat_interleave(3, 0)
        expected = after.residual.float() + gates * int_linear(
            x.to(dtype).float(), weight, bias, backend=backend
        )
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected.to(dtype))
    rows = quantize_rows(x, 8)
    again = multiply(rows, weight, bias, backend=backend, after="gelu", dtype=torch.float16)
    assert again.dtype == torch.float16


@pytest.mark.parametrize("backend", ["simulate", pytest.param("integer", marks=needs_onednn)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_codes_of_a_gpu_kernel_multiply_on_the_cpu_too(symmetric: bool, backend: str) -> None:
    weight, x = example_weight(20, 64, 4), rows_of(6, 64)
    rows = RowCodes.of(row_op.as_int8(x, 8, symmetric), symmetric)
    got = multiply(rows, weight, None, 8, backend)
    assert torch.equal(got, int_linear(x, weight, None, 8, symmetric, backend))


def test_an_epilogue_that_does_not_fit_is_refused() -> None:
    weight, x = example_weight(20, 64, 4), rows_of(6, 64)
    with pytest.raises(ValueError, match="after is 'relu'; use None, 'gelu' or a GatedResidual"):
        int_linear(x, weight, after="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"residual has shape \(6, 19\); needs \(6, 20\)"):
        int_linear(x, weight, after=GatedResidual(rows_of(2, 20), rows_of(6, 19)))
    with pytest.raises(
        ValueError, match=r"gate has shape \(4, 20\); needs \(b, 20\) with b samples"
    ):
        int_linear(x, weight, after=GatedResidual(rows_of(4, 20), rows_of(6, 20)))


@pytest.mark.parametrize("backend", ["simulate", pytest.param("integer", marks=needs_onednn)])
@pytest.mark.parametrize("zero", [None, 37.0])
def test_rows_that_were_quantized_elsewhere_keep_their_scale(
    backend: str, zero: float | None
) -> None:
    """One scale for all rows, as static ranges have: the sums are those of the codes given."""
    weight = example_weight(24, 64, bits=4)
    codes = torch.randint(-100 if zero is None else 0, 101, (9, 64)).float()
    scale = torch.full((9, 1), 0.03)
    zeros = None if zero is None else torch.full((9, 1), zero)
    wanted = (codes.double() - (zero or 0.0)) * 0.03 @ weight.dequantize().double().T
    rows = RowCodes(codes.clone(), scale, zeros)
    found = multiply(rows, weight, None, 8, backend)
    assert relative(found, wanted) < 1e-6


@pytest.mark.parametrize("backend", ["integer", "triton"])
def test_codes_that_are_8_bit_floats_are_refused_with_their_reason(backend: str) -> None:
    weight = example_weight(24, 64, bits=8)
    rows = quantize_rows_fp8(rows_of(5, 64))
    with pytest.raises(RuntimeError, match=f"backend {backend}: 8-bit floats have no integer"):
        multiply(rows, weight, backend=backend)
    wanted = rows.dequantize().double() @ weight.dequantize().double().T
    assert relative(multiply(rows, weight), wanted) < 1e-6
