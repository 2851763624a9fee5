"""Linear layers of 8-bit floats: the definition against float64, what is refused, and where they run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import kernels
from kernels.dispatch import Choice
from kernels.fp8_linear import Float8Weight, choose, fp8_linear, multiply
from kernels.fp8_linear.cases import example_weight
from kernels.int_linear import GatedResidual
from kernels.quantize_rows import RowCodes, custom_op, quantize_rows, quantize_rows_fp8
from tests.kernels.linears import relative, rows_of

FP8 = torch.float8_e4m3fn


@pytest.mark.parametrize(("m", "k", "n"), [(37, 130, 29), (5, 1152, 33), (1, 1, 1)])
def test_it_is_the_product_of_what_the_codes_stand_for(m: int, k: int, n: int) -> None:
    x, weight = rows_of(m, k), example_weight(n, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    scale = (x.double().abs().amax(1, keepdim=True) / 448).float()
    a = (x / scale).to(FP8).double() * scale.double()
    expected = a @ (weight.codes.double() * weight.scale.double()).T + bias.double()
    assert relative(fp8_linear(x, weight, bias), expected) <= 1e-6
    assert relative(kernels.fp8_linear(x, weight), expected - bias.double()) <= 1e-6
    assert torch.equal(multiply(quantize_rows_fp8(x), weight, bias), fp8_linear(x, weight, bias))


def test_an_element_is_off_by_its_fourth_bit_at_most() -> None:
    """Inputs and weights of 8-bit floats cost an ordinary product about a fortieth of its length."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 256, generator=generator) for n in (64, 48))
    weight = Float8Weight(*quantize_rows_fp8(w)[:2])
    assert bool(((weight.dequantize() - w).abs() <= w.abs() * 2**-4 + weight.scale * 2**-10).all())
    assert 0.01 < relative(fp8_linear(x, weight), x.double() @ w.double().T) < 0.05


def test_gelu_gate_and_residual_come_after_the_bias() -> None:
    b, t, k, n = 3, 5, 70, 9
    x, weight, generator = rows_of(b * t, k), example_weight(n, k), torch.Generator().manual_seed(1)
    bias, gate = torch.randn(n, generator=generator), torch.randn(b, n, generator=generator)
    residual = torch.randn(b * t, n, generator=generator)
    y = fp8_linear(x, weight, bias).double()
    gelu = torch.nn.functional.gelu(y, approximate="tanh")
    assert relative(fp8_linear(x, weight, bias, after="gelu"), gelu) <= 1e-6
    gated = residual.double() + gate.double().repeat_interleave(t, 0) * y
    got = fp8_linear(x, weight, bias, after=GatedResidual(gate, residual))
    assert relative(got, gated) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_have_the_dtype_of_inputs(dtype: torch.dtype) -> None:
    x, weight = rows_of(5, 64).to(dtype), example_weight(9, 64)
    got = fp8_linear(x, weight)
    assert got.dtype == dtype
    assert torch.equal(got, fp8_linear(x.float(), weight).to(dtype))


def test_parts_that_do_not_belong_together_are_named() -> None:
    x, weight = rows_of(6, 64), example_weight(9, 64)
    with pytest.raises(ValueError, match=r"codes are torch\.int8 of shape \(9, 64\)"):
        Float8Weight(weight.codes.view(torch.int8), weight.scale)
    with pytest.raises(
        ValueError, match=r"scale is torch\.float32 of shape \(9,\); needs .* \(9, 1\)"
    ):
        Float8Weight(weight.codes, weight.scale[:, 0])
    with pytest.raises(ValueError, match=r"needs floating point \[m, 64\]"):
        fp8_linear(x[:, 1:], weight)
    with pytest.raises(ValueError, match=r"bias has shape \(8,\); needs \(9,\)"):
        fp8_linear(x, weight, torch.zeros(8))
    with pytest.raises(ValueError, match="rows that are quantized already go to `multiply`"):
        fp8_linear(quantize_rows_fp8(x).codes, weight)
    with pytest.raises(ValueError, match=r"codes of rows are torch\.float32"):
        multiply(quantize_rows(x, 8), weight)
    rows = quantize_rows_fp8(x)
    with pytest.raises(ValueError, match="without zeros"):
        multiply(RowCodes(rows.codes, rows.scale, torch.zeros(6, 1)), weight)
    with pytest.raises(ValueError, match="after is 'relu'"):
        fp8_linear(x, weight, after="relu")  # type: ignore[arg-type]
    for gate, residual, said in ((4, 6, r"gate has shape \(4, 9\)"), (2, 5, "residual has shape")):
        after = GatedResidual(torch.ones(gate, 9), torch.ones(residual, 9))
        with pytest.raises(ValueError, match=said):
            fp8_linear(x, weight, after=after)


def test_who_asks_for_nothing_gets_the_definition_and_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = rows_of(2, 64)
    said = "simulate: GPUs alone multiply 8-bit floats"
    assert choose(x, 3) == choose(x, 3, "auto") == Choice("simulate", said)
    assert choose(x, 3, "integer").backend == "simulate"
    with pytest.raises(RuntimeError, match="fp8_linear cannot run with backend triton: "):
        choose(x, 3, "triton")
    monkeypatch.setenv("DQVIZ_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="fp8_linear cannot run with backend triton: "):
        fp8_linear(x, example_weight(3, 64))


def test_gpus_without_8_bit_floats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)
    device = torch.device("cuda")
    for capability, said in (
        ((8, 0), "a GPU of compute capability 8.0 has no 8-bit floats, 8.9 and above do"),
        ((8, 9), None),
        ((9, 0), None),
        ((12, 0), None),
    ):
        found = SimpleNamespace(major=capability[0], minor=capability[1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, found=found: found)
        assert custom_op.float8_obstacle(device) == said
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert "AMD" in str(custom_op.float8_obstacle(device))


def test_every_finite_code_survives_the_product() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    codes = every[(every & 127) != 127].view(FP8).view(2, 127)
    weight, eye = Float8Weight(codes, torch.ones(2, 1)), torch.eye(127).to(FP8)
    rows = RowCodes(eye, torch.ones(127, 1))
    assert torch.equal(multiply(rows, weight), codes.float().T)
