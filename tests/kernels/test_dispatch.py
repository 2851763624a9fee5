"""The backend switch: who wins, what is refused, and how it is said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import kernels
from kernels.dispatch import Choice, Op, requested, triton_obstacle
from kernels.quantize_rows import RowCodes

ADDED = Op("kernels.int_linear", {"simulate": "reference", "integer": "cpu"})
PLAIN = Op("kernels.hadamard", {"simulate": "reference"})


def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested() == "auto"
    monkeypatch.setenv("DQVIZ_BACKEND", "integer")
    assert requested() == requested("auto") == "integer"
    assert requested("simulate") == "simulate"
    monkeypatch.setenv("DQVIZ_BACKEND", "")
    assert requested() == "auto"


def test_an_unknown_backend_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend is 'int8'; use one of auto, simulate"):
        requested("int8")
    monkeypatch.setenv("DQVIZ_BACKEND", "cuda")
    with pytest.raises(ValueError, match="DQVIZ_BACKEND is 'cuda'"):
        requested()


def test_auto_asks_the_op_and_falls_back_to_the_definition() -> None:
    assert ADDED.choose(prefer=lambda: Choice("integer", "integer: fast")).backend == "integer"
    assert ADDED.choose().backend == "simulate"
    assert PLAIN.choose().backend == "simulate"


def test_a_version_that_cannot_run_is_refused_with_reason_and_fix() -> None:
    with pytest.raises(RuntimeError, match=r"no moon today; use --backend auto or simulate"):
        ADDED.choose("integer", obstacle=lambda backend: "no moon today")
    assert ADDED.choose("integer") == Choice("integer", "integer: asked for")


def test_a_missing_triton_version_is_an_error_and_missing_integer_arithmetic_is_not() -> None:
    with pytest.raises(RuntimeError, match="hadamard has no triton version"):
        PLAIN.choose("triton")
    assert PLAIN.choose("integer").backend == "simulate"


def test_an_op_without_the_version_of_the_environment_runs_its_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PLAIN.choose().why == "simulate: the default"
    monkeypatch.setenv("DQVIZ_BACKEND", "triton")
    for backend in (None, "auto"):
        expected = Choice("simulate", "simulate: no triton version; the definition runs")
        assert PLAIN.choose(backend) == expected
    with pytest.raises(RuntimeError, match="hadamard has no triton version"):
        PLAIN.choose("triton")
    codes = torch.arange(8, dtype=torch.uint8).view(1, 8)
    packed = kernels.bitpack.pack(codes, 3)
    assert torch.equal(kernels.bitpack.unpack(packed, 3, 8), codes)
    assert kernels.hadamard(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize(
    "call",
    [
        partial(kernels.quantize_rows.quantize_rows_fp8, granularity="tensor"),
        partial(kernels.quantize_rows, bits=8, granularity="tensor"),
        partial(kernels.quantize_rows, bits=4, symmetric=False, granularity="tensor"),
    ],
)
def test_inputs_without_the_version_of_the_environment_run_the_definition_too(
    call: Callable[..., RowCodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.tensor([[0.5, -2.0], [3.0, 1.0]])
    expected = call(x)
    with pytest.raises(RuntimeError, match=r"quantize_rows of .+ has no triton version; use"):
        call(x, backend="triton")
    monkeypatch.setenv("DQVIZ_BACKEND", "triton")
    for a, b in zip(call(x), expected, strict=True):
        assert a is b is None or torch.equal(a.float(), b.float())


def test_the_environment_reaches_the_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQVIZ_BACKEND", "triton")
    with pytest.raises(RuntimeError, match="quantize_rows cannot run with backend triton"):
        kernels.quantize_rows(torch.ones(1, 2), 8)
    with pytest.raises(RuntimeError, match="quantize_rows cannot run with backend triton"):
        kernels.quantize_rows.quantize_rows_fp8(torch.ones(1, 2))


def test_what_prevents_triton_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if find_spec("triton"):
        assert triton_obstacle(torch.device("cpu")) == "no CUDA device"
        assert triton_obstacle(torch.device("cuda")) is None
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert (
            triton_obstacle(torch.device("cpu")) == "the tensors are on cpu, not on a CUDA device"
        )
    assert "65536 at most" in str(triton_obstacle(torch.device("cuda"), 65537))
    monkeypatch.setattr("kernels.dispatch.find_spec", lambda name: None)
    for device in ("cpu", "cuda"):
        assert "triton is not installed: pip install" in str(triton_obstacle(torch.device(device)))


def test_ops_load_on_first_use_only() -> None:
    program = (
        "import sys, kernels, kernels.dispatch\n"
        "assert kernels.DQVIZ and 'torch' not in sys.modules\n"
        "kernels.hadamard\n"
        "assert 'torch' in sys.modules and 'kernels.int_linear' not in sys.modules"
    )
    root = Path(kernels.__file__).parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root)


def test_an_unknown_op_lists_the_known_ones() -> None:
    with pytest.raises(
        AttributeError, match="no attribute 'softmax'; ops: adaln_quantize, bitpack"
    ):
        kernels.softmax  # noqa: B018
    assert {"bitpack", "int_linear"} <= set(dir(kernels))
