"""Every Triton kernel on a GPU: the numbers that the interpreter is held to, compiled calls, CUDA graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kernels
from tests.kernels.calls import CALLS, OPS, call, parts
from tests.kernels.moved import launchers, moved, there

ROOT = Path(kernels.__file__).parent.parent
SUITES = sorted((Path(__file__).parent / "interpreted").glob("*.py"))
GPU = torch.device("cuda")

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every_call = pytest.mark.parametrize(("op", "name"), CALLS, ids=lambda s: s.replace(" ", "-"))


def on_device(op: str, name: str) -> Callable[[], tuple[Tensor, ...]]:
    """One call of a custom op on the GPU."""
    function, arguments = call(op, name)
    held = [there(a, GPU) for a in arguments]
    return lambda: parts(function(*held))


def assert_close(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Codes off by one at most, numbers as exact as a bfloat16; the suites are exacter."""
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        off = a.cpu().double() - b.double()
        if a.is_floating_point():
            assert off.norm() <= 8e-3 * b.double().norm()
        else:
            assert off.abs().max() <= 1


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_kernels_compute_what_the_definition_says(suite: Path) -> None:
    """The suites of the interpreter, against float64, with what they hand to a kernel moved to the GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.kernels.moved"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", str(suite)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"\n{done.stdout[-8000:]}{done.stderr[-2000:]}"


@pytest.mark.gpu
@on_gpu
@every_call
def test_the_custom_op_launches_its_kernel_and_compiles_whole(op: str, name: str) -> None:
    function, arguments = call(op, name)
    run = on_device(op, name)
    eager = run()
    assert_close(eager, parts(function(*arguments)))
    for a, b in zip(torch.compile(run, fullgraph=True)(), eager, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@on_gpu
@every_call
def test_a_call_is_captured_in_a_cuda_graph(op: str, name: str) -> None:
    run = on_device(op, name)
    expected = run()  # compiles kernels, and makes what is kept
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    for part in got:
        part.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_what_is_moved_keeps_its_strides_and_comes_back() -> None:
    seen: list[Tensor] = []

    def kernel(x: Tensor, bits: int, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return x * bits, x

    wide = torch.arange(60.0).view(6, 10)[:, 2:7]
    with pytest.raises(NotImplementedError, match="meta"):  # from there nothing comes back
        moved(kernel, torch.device("meta"))(wide, 8, None)
    assert (seen[0].device.type, seen[0].stride()) == ("meta", wide.stride())
    twice, same = moved(kernel, torch.device("cpu"))(wide, 2, None)
    assert torch.equal(twice, 2 * wide)
    assert torch.equal(same, wide)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("op", OPS)
def test_every_op_has_a_launcher_that_is_moved(op: str) -> None:
    assert op in launchers(import_module(f"kernels.{op}.triton_impl"))
