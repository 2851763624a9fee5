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

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import tables as measured
from kernels.dispatch import Choice
from kernels.int_linear import (
    PackedWeight,
    accumulate,
    choose,
    cpu,
    int_linear,
    prepare,
    tuned,
    why,
)
from kernels.int_linear.cases import example_weight
from kernels.quantize_rows import quantize_rows
from tests.kernels.linears import exact, needs_onednn, relative, rows_of


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
largest = cpu.u8s8_product(
    torch.full((9, 130), 255, dtype=torch.uint8), 0,
    torch.ops.onednn.qlinear_prepack(torch.full((21, 130), 127, dtype=torch.int8), None),
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


def chosen(m: int) -> Choice:
    """For m rows and the weight of that row."""
    kind = tuned.kind("integer", example_weight(256, 128, 4), 8, True)
    return tuned.choice(tuned.CPU, (m, 128, 256), kind)


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """tables(**row) makes one measured row the only knowledge of this device."""

    def only(**row: Any) -> None:
        place = table(tmp_path / "configs", **row)
        monkeypatch.setattr(measured, "folders", lambda: (place,))

    monkeypatch.setattr(measured, "folders", lambda: (tmp_path / "none",))
    return only


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
def test_what_a_user_measured_goes_before_what_comes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, along = tmp_path / "own", tmp_path / "along"
    table(own, ratio=0.9)
    path = table(along, ratio=1.8) / tuned.device_name() / "int_linear.json"
    both = json.loads(path.read_text())["rows"]
    path.write_text(json.dumps({"rows": [*both, {**both[0], "m": 1024}]}))
    monkeypatch.setattr(measured, "PACKAGED", along)
    monkeypatch.setenv("DQVIZ_CONFIGS", str(own))
    assert chosen(64).backend == "simulate"
    assert chosen(1024).backend == "integer", "only the other has it"
    monkeypatch.delenv("DQVIZ_CONFIGS")
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    assert chosen(64).backend == "integer"
    table(tmp_path / "elsewhere" / "configs", ratio=0.8)
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "elsewhere"))
    assert chosen(64).backend == "simulate"


def test_a_broken_table_is_named_with_what_to_do(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"cells": []}'):
        path = tmp_path / f"{len(text)}.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"{path.name} is no table .*; delete it") as error:
            measured.read(path)
        assert "\n" not in str(error.value)


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
