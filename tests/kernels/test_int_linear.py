"""Integer linear: one set of integers, equal sums on every backend, honest choices and refusals."""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kernels
from kernels.int_linear import (
    GatedResidual,
    PackedWeight,
    accumulate,
    choose,
    cpu,
    custom_op,
    int_linear,
    multiply,
    operand,
    prepare,
    tuned,
    why,
)
from kernels.int_linear.cases import example_weight
from kernels.quantize_rows import RowCodes, quantize_rows
from kernels.quantize_rows import custom_op as row_op

needs_onednn = pytest.mark.skipif(
    not cpu.available(), reason="torch without oneDNN's integer linear"
)


def rows_of(m: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)) + 0.3


def exact(
    x: Tensor, w: PackedWeight, bias: Tensor | None, act_bits: int | None, symmetric: bool
) -> Tensor:
    """The definition in float64, from the stored codes and nothing of the op."""
    q = w.codes().double()
    group = torch.arange(w.in_features) // (w.group_size or w.in_features)
    z = torch.full_like(w.scale, 2.0 ** (w.bits - 1)) if w.zero is None else w.zero
    weight = (q - z.double()[:, group]) * w.scale.double()[:, group]
    a = x.double()
    if act_bits is not None:
        rows = quantize_rows(x, act_bits, symmetric)
        zero = 0.0 if rows.zero is None else rows.zero.double()
        a = (rows.codes.double() - zero) * rows.scale.double()
    y = a @ weight.T
    return y if bias is None else y + bias.double()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("group_size", [None, 16, 50, 64])
@pytest.mark.parametrize("act_bits", [None, 2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_the_definition_against_float64(
    bits: int, symmetric: bool, act_bits: int | None, group_size: int | None
) -> None:
    w = example_weight(19, 50, bits, symmetric, group_size)
    x, bias = rows_of(7, 50), rows_of(1, 19)[0]
    for b in (bias, None):
        y = int_linear(x, w, b, act_bits, symmetric, "simulate")
        assert relative(y, exact(x, w, b, act_bits, symmetric)) < 1e-6


@needs_onednn
@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 40),
    k=st.integers(1, 130),
    n=st.integers(1, 40),
    bits=st.integers(1, 8),
    act_bits=st.integers(2, 8),
    weight_symmetric=st.booleans(),
    act_symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_integer_sums_are_equal_bit_for_bit(
    m: int,
    k: int,
    n: int,
    bits: int,
    act_bits: int,
    weight_symmetric: bool,
    act_symmetric: bool,
    seed: int,
) -> None:
    w = prepare(example_weight(n, k, bits, weight_symmetric, seed=seed))
    if cpu.obstacle(w.weight, act_bits, torch.device("cpu")):
        return
    x, bias = rows_of(m, k, seed), rows_of(1, n, seed)[0]
    sums = [accumulate(x, w, act_bits, act_symmetric, b) for b in ("integer", "simulate")]
    assert torch.equal(*sums)
    a, b = (int_linear(x, w, bias, act_bits, act_symmetric, b) for b in ("integer", "simulate"))
    assert (a - b).norm() <= 1e-6 * (b.norm() + bias.norm())


@needs_onednn
@pytest.mark.parametrize("act_symmetric", [True, False])
def test_long_sums_beyond_2_24_stay_within_float32(act_symmetric: bool) -> None:
    w = prepare(example_weight(16, 4608, 8, symmetric=False))
    w.weight.zero[0] = 0  # type: ignore[index]
    x = rows_of(5, 4608).abs() + 3.0
    assert int(accumulate(x, w, 7, act_symmetric, "simulate").abs().max()) > 2**24
    expected = exact(x, w.weight, None, 7, act_symmetric)
    for backend in ("simulate", "integer"):
        assert relative(int_linear(x, w, None, 7, act_symmetric, backend), expected) < 1e-6
    with pytest.raises(RuntimeError, match=r"beyond 2\^24 cannot be read exactly"):
        accumulate(x, w, 7, act_symmetric, "integer")


@needs_onednn
@pytest.mark.parametrize("zero", [None, 0, 255, 100])
def test_the_largest_operands_are_exact_or_refused(zero: int | None) -> None:
    """All codes at their extremes: where 16-bit pair sums would saturate."""
    k, n = 256, 5
    codes = torch.zeros(n, k, dtype=torch.uint8)
    codes[1] = 255
    codes[2, ::2] = 255
    z = None if zero is None else torch.full((n, 1), zero, dtype=torch.int16)
    w = prepare(PackedWeight.from_codes(codes, 8, torch.ones(n, 1), z))
    x = torch.ones(3, k)
    x[1] = -1.0
    x[2, ::3] = -1.0
    for act_bits, act_symmetric in itertools.product((7, 8), (True, False)):
        expected = accumulate(x, w, act_bits, act_symmetric, "simulate")
        try:
            got = accumulate(x, w, act_bits, act_symmetric, "integer")
        except RuntimeError as refusal:
            if not (cpu.saturates() and act_bits == 8 and "saturate" in str(refusal)):
                raise
            continue
        assert torch.equal(got, expected)


SMALL_CORE = """
import torch
from kernels.int_linear import PackedWeight, accumulate, cpu, why, prepare
from kernels.int_linear.cases import example_weight
largest = cpu._product(
    torch.full((9, 130), 255, dtype=torch.uint8), 0,
    torch.ops.onednn.qlinear_prepack(torch.full((21, 130), 127, dtype=torch.int8), None), 21,
)
if (largest == 255 * 127 * 130).all():
    raise SystemExit(77)
assert cpu.saturates()
x = torch.randn(9, 130, generator=torch.Generator().manual_seed(0)) * 5
for bits, act_bits, symmetric in ((8, 7, True), (8, 7, False), (6, 8, True), (7, 8, False), (4, 8, False)):
    w = prepare(example_weight(21, 130, bits, symmetric))
    a, b = (accumulate(x, w, act_bits, symmetric, name) for name in ("integer", "simulate"))
    assert torch.equal(a, b), (bits, act_bits, symmetric)
w = prepare(example_weight(21, 130, 8))
print(why(x, w))
try:
    accumulate(x, w, 8, True, "integer")
except RuntimeError as refusal:
    print(refusal)
"""


@needs_onednn
def test_without_8_bit_dot_products_full_range_is_refused_and_the_rest_exact() -> None:
    """The same processor, told to stay with AVX2, whose pair sums saturate in 16 bits."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_CORE],
        cwd=Path(kernels.__file__).parent.parent,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("oneDNN's AVX2 path does not saturate on this processor")
    assert done.returncode == 0, done.stderr
    reason = "8-bit weights x 8-bit activations saturate on this CPU"
    automatic, refusal = done.stdout.splitlines()
    assert automatic.startswith(f"simulate: {reason}")
    assert reason in refusal
    assert "use --backend auto or simulate" in refusal


def test_what_integer_arithmetic_cannot_do_is_refused_with_its_reason() -> None:
    x = rows_of(3, 64)
    grouped = example_weight(8, 64, 4, group_size=16)
    with pytest.raises(RuntimeError, match="scales per weight group"):
        int_linear(x, grouped, backend="integer")
    with pytest.raises(RuntimeError, match="activations are not quantized"):
        int_linear(x, example_weight(8, 64, 4), act_bits=None, backend="integer")
    with pytest.raises(RuntimeError, match=r"cannot run with backend triton: .*CUDA device"):
        int_linear(x, example_weight(8, 64, 4), backend="triton")
    with pytest.raises(ValueError, match="no single integer sum"):
        accumulate(x, grouped)


def test_the_environment_and_prepare_choose_too(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = rows_of(3, 64), example_weight(8, 64, 4, group_size=16)
    monkeypatch.setenv("DQVIZ_BACKEND", "integer")
    with pytest.raises(RuntimeError, match="scales per weight group"):
        int_linear(x, w)
    assert choose(x, prepare(w, "simulate")).backend == "simulate"
    monkeypatch.delenv("DQVIZ_BACKEND")
    assert why(x, w) == "simulate: scales per weight group would cut every sum into pieces"
    with pytest.raises(RuntimeError, match="scales per weight group"):
        int_linear(x, prepare(w, "integer"))


def table(folder: Path, **row: Any) -> Path:
    """A folder of tables with one measured row for this device."""
    path = folder / tuned.device_name() / "int_linear.json"
    path.parent.mkdir(parents=True)
    measured = {"m": 64, "k": 128, "n": 256, "weight_bits": 4, "act_bits": 8, "corrected": False}
    path.write_text(json.dumps({"rows": [{**measured, "ratio": 1.8, **row}]}))
    return folder


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """tables(**row) makes one measured row the only knowledge of this device."""

    def only(**row: Any) -> None:
        monkeypatch.setattr(tuned, "FOLDER", table(tmp_path / "configs", **row))
        tuned.choice.cache_clear()

    monkeypatch.setattr(tuned, "FOLDER", tmp_path / "none")
    tuned.choice.cache_clear()
    yield only
    monkeypatch.undo()
    tuned.choice.cache_clear()


@needs_onednn
def test_auto_takes_integer_where_it_was_measured_faster(tables: Any) -> None:
    w = prepare(example_weight(256, 128, 4))
    assert why(rows_of(64, 128), w) == "simulate: the integer path was not measured on this device"
    tables(ratio=1.8)
    assert choose(rows_of(64, 128), w).backend == "integer"
    assert why(rows_of(70, 128), w) == "integer: integer measured 1.80x at m=64 k=128 n=256"
    assert why(rows_of(500, 128), w) == "simulate: no shape near m=500 k=128 n=256 was measured"
    assert choose(rows_of(64, 128), w, act_symmetric=False).backend == "simulate"
    assert "expanded in every call" in why(rows_of(64, 128), w.weight)


@needs_onednn
def test_the_correction_is_needed_for_zeros_that_do_not_fit_and_for_asymmetric_inputs() -> None:
    symmetric, four, eight = (example_weight(256, 128, b, b == 7) for b in (7, 4, 8))
    assert not cpu.corrected(symmetric, 8, True)
    assert not cpu.corrected(four, 8, True)  # q - z fits in s8 as it is
    assert cpu.corrected(eight, 7, True)  # q - z reaches -255..255
    assert all(cpu.corrected(w, 7, False) for w in (symmetric, four, eight))


@needs_onednn
@pytest.mark.parametrize(
    ("ratio", "backend"), [(0.89, "simulate"), (1.04, "simulate"), (1.05, "integer")]
)
def test_auto_wants_five_percent(tables: Any, ratio: float, backend: str) -> None:
    tables(ratio=ratio)
    chosen = choose(rows_of(64, 128), prepare(example_weight(256, 128, 4)))
    assert chosen == (backend, f"{backend}: integer measured {ratio:.2f}x at m=64 k=128 n=256")


@needs_onednn
@pytest.mark.parametrize("backend", ["simulate", "integer"])
def test_speed_keeps_the_expanded_form_and_memory_does_not(backend: str) -> None:
    w, x = example_weight(8, 24, 4), rows_of(3, 24)
    fast, small = prepare(w, backend), prepare(w, backend, "memory")
    assert torch.equal(int_linear(x, fast), int_linear(x, small))
    assert torch.equal(int_linear(x, fast), int_linear(x, w, backend=backend))
    assert fast.forms
    assert not small.forms
    with pytest.raises(ValueError, match="residency is 'disk'; use speed or memory"):
        prepare(w, residency="disk")  # type: ignore[arg-type]


@needs_onednn
def test_a_prepared_weight_can_be_copied() -> None:
    w, x = prepare(example_weight(8, 24, 4), "integer"), rows_of(3, 24)
    y = int_linear(x, w)
    twin = copy.deepcopy(w)
    assert not twin.forms
    assert torch.equal(int_linear(x, twin), y)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_of_the_input_is_that_of_the_output(dtype: torch.dtype) -> None:
    w = prepare(example_weight(21, 96, 6))
    x, bias = rows_of(5, 96).to(dtype), rows_of(1, 21)[0].to(dtype)
    for backend in ("simulate", "integer"):
        y = int_linear(x, w, bias, backend=backend)
        assert y.dtype == dtype
        assert relative(y, exact(x, w.weight, bias, 8, True)) < max(torch.finfo(dtype).eps, 1e-6)


@needs_onednn
@pytest.mark.parametrize("backend", ["simulate", "integer"])
@pytest.mark.parametrize("act_symmetric", [True, False])
def test_views_no_rows_and_zero_rows(backend: str, act_symmetric: bool) -> None:
    w = prepare(example_weight(21, 96, 4, symmetric=False), backend)
    x, bias = rows_of(6, 96), rows_of(1, 21)[0]
    x[2] = 0.0
    y = int_linear(x, w, bias, 8, act_symmetric)
    assert torch.equal(y[2], bias)
    assert torch.equal(int_linear(x.T.contiguous().T, w, bias, 8, act_symmetric), y)
    assert int_linear(x[:0], w, bias, 8, act_symmetric).shape == (0, 21)


@needs_onednn
@pytest.mark.parametrize("backend", ["simulate", "integer"])
def test_a_row_of_nan_shows_and_harms_no_other(backend: str) -> None:
    w, x = prepare(example_weight(21, 96, 4), backend), rows_of(4, 96)
    expected = int_linear(x, w)
    x[1, 5] = float("nan")
    y = int_linear(x, w)
    assert y[1].isnan().all()
    torch.testing.assert_close(y[[0, 2, 3]], expected[[0, 2, 3]])


def test_more_bits_are_closer_to_full_precision() -> None:
    generator = torch.Generator().manual_seed(5)
    full, x = torch.randn(32, 128, generator=generator), rows_of(16, 128)
    errors = []
    for bits in (2, 3, 4, 6, 8):
        rows = quantize_rows(full, bits)
        codes = (rows.codes + 2 ** (bits - 1)).to(torch.uint8)
        w = PackedWeight.from_codes(codes, bits, rows.scale)
        assert torch.equal(w.dequantize(), rows.dequantize())
        errors.append(relative(int_linear(x, w, act_bits=bits, backend="simulate"), x @ full.T))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 10 ** (-35 / 20)  # W8A8 on Gaussian data: at least 35 dB


def test_sizes_count_what_is_stored() -> None:
    assert example_weight(16, 60, 6).size_bytes == 16 * 45 + 16 * 4
    assert example_weight(16, 60, 4, False, 32).size_bytes == 16 * 30 + 16 * 2 * (4 + 2)


def test_parts_that_do_not_belong_together_are_named() -> None:
    codes, scale = torch.zeros(4, 10, dtype=torch.uint8), torch.ones(4, 1)
    with pytest.raises(ValueError, match="code 9 does not fit in 3 bits"):
        PackedWeight.from_codes(codes + 9, 3, scale)
    with pytest.raises(ValueError, match="10 codes of 6 bits need uint8 rows of 8 bytes"):
        PackedWeight(codes, 6, 10, scale)
    with pytest.raises(ValueError, match=r"scale is torch\.float32 of shape \(4, 1\); needs"):
        PackedWeight.from_codes(codes, 4, scale, group_size=5)
    with pytest.raises(ValueError, match=r"zero is torch\.float32"):
        PackedWeight.from_codes(codes, 4, scale, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="group_size is 0"):
        PackedWeight.from_codes(codes, 4, scale, group_size=0)
    with pytest.raises(ValueError, match="bits is 9"):
        PackedWeight(codes, 9, 10, scale)


def test_inputs_that_do_not_fit_are_named() -> None:
    w = example_weight(8, 24, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 23\); needs floating point \[m, 24\]"):
        int_linear(rows_of(2, 23), w)
    with pytest.raises(ValueError, match=r"bias has shape \(7,\); needs \(8,\)"):
        int_linear(rows_of(2, 24), w, torch.ones(7))
    with pytest.raises(ValueError, match="x is on meta, the weight on cpu"):
        int_linear(rows_of(2, 24).to("meta"), w)
    with pytest.raises(ValueError, match="bits is 9"):
        int_linear(rows_of(2, 24), w, act_bits=9)


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
    rows = kernels.quantize_rows.RowCodes(codes.clone(), scale, zeros)
    found = kernels.int_linear.multiply(rows, weight, None, 8, backend)
    assert relative(found, wanted) < 1e-6


# -- what a GPU computes from, and what comes after the product


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
    with patch.object(custom_op, "triton_obstacle", lambda *about: None):
        if len(weight.scale[0]) > 1 and bits == 8 and not symmetric:
            with pytest.raises(RuntimeError, match="8-bit weights in groups"):
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


@pytest.mark.parametrize("k", [1, 64, 65, 128, 200])
def test_nibbles_and_back(k: int) -> None:
    q = torch.randint(-8, 8, (3, k), generator=torch.Generator().manual_seed(k), dtype=torch.int8)
    packed = operand.nibbles(q)
    assert packed.shape == (3, 64 * -(-k // 128))
    assert torch.equal(operand.from_nibbles(packed, k), q)


def test_what_triton_cannot_multiply_is_refused_with_its_reason() -> None:
    x = rows_of(3, 256)
    for weight, act_bits, reason in (
        (example_weight(8, 256, 4), None, "weight-only products have no Triton version"),
        (example_weight(8, 256, 4, group_size=32), 8, "weight groups of 32 have no Triton version"),
        (example_weight(8, 256, 8, False, 64), 8, "do not fit 8-bit operands"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            int_linear(x, weight, None, act_bits, backend="triton")


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
