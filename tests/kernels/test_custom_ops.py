"""Ops as PyTorch knows them: checked, compiled, exported and traced without a GPU, and without Triton."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import kernels
from tests.kernels.calls import CALLS, OPS, call, parts


class Calling(torch.nn.Module):
    """One op as a module, its other arguments held."""

    def __init__(self, op: Callable[..., Any], others: tuple[Any, ...]) -> None:
        super().__init__()
        self.op, self.others = op, others

    def forward(self, x: Tensor) -> Any:
        return self.op(x, *self.others)


@pytest.mark.parametrize(("op", "name"), CALLS, ids=lambda s: s.replace(" ", "-"))
def test_pytorch_finds_nothing_wrong_with_it(op: str, name: str) -> None:
    function, arguments = call(op, name)
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    floats = [a for a in arguments if isinstance(a, Tensor) and a.dtype == torch.float8_e4m3fn]
    if floats:  # the check of schemas compares inputs by allclose, which has none of these on a CPU
        before = [a.view(torch.uint8).clone() for a in floats]
        function(*arguments)
        assert all(torch.equal(a.view(torch.uint8), b) for a, b in zip(floats, before))
    else:
        checks.append("test_schema")
    torch.library.opcheck(function, arguments, test_utils=checks)


@pytest.mark.parametrize(("op", "name"), CALLS, ids=lambda s: s.replace(" ", "-"))
def test_shapes_are_known_on_a_gpu_that_is_not_there(op: str, name: str) -> None:
    function, arguments = call(op, name)
    expected = parts(function(*arguments))
    with FakeTensorMode():
        there = [
            torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="cuda")
            if isinstance(a, Tensor)
            else a
            for a in arguments
        ]
        got = parts(function(*there))
    for a, b in zip(got, expected, strict=True):
        assert (a.device.type, a.dtype, a.shape) == ("cuda", b.dtype, b.shape)


@pytest.mark.parametrize("op", OPS)
def test_it_compiles_whole_and_exports(op: str) -> None:
    torch._dynamo.reset()  # all ops are called from one place, which is compiled a few times only
    name = next(name for owner, name in CALLS if owner == op)
    function, (x, *others) = call(op, name)
    module = Calling(function, tuple(others))
    expected = parts(module(x))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (x,)).module()
    for made in (compiled, exported):
        for a, b in zip(parts(made(x)), expected, strict=True):
            assert torch.equal(a, b)


def test_everything_but_the_kernels_works_without_triton() -> None:
    program = """
import sys, torch
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")
sys.meta_path.insert(0, Blocker())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else found(name, *a)
import kernels
from importlib import import_module
from kernels import ahead
for op in kernels.ops():
    for case in import_module(f"kernels.{op}.cases").CASES.values():
        case("simulate")
    if "triton" in getattr(kernels, op).OP.versions:
        for make in import_module(f"kernels.{op}.cases").CALLS.values():
            import_module(f"kernels.{op}.custom_op")
            getattr(torch.ops.dqviz, op)(*make())
assert "triton" not in sys.modules
try:
    kernels.quantize_rows(torch.ones(1, 2), 8, backend="triton")
except RuntimeError as error:
    assert "triton is not installed: pip install" in str(error), error
else:
    raise AssertionError("computed without triton")
assert "pip install" in ahead.obstacle("sm_90")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(kernels.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("op", "name"), CALLS, ids=lambda s: s.replace(" ", "-"))
def test_kernels_are_launched_on_the_device_of_their_tensors(
    op: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton launches on the current device, which need not be that of the tensors."""
    arguments = import_module(f"kernels.{op}.cases").CALLS[name]()
    current: list[Tensor] = []

    @contextmanager
    def device_of(x: Tensor) -> Iterator[None]:
        current.append(x)
        yield
        current.pop()

    def launched(*args: object) -> tuple[Tensor, ...]:
        assert current[0] is arguments[0]
        return (torch.ones(1),)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    stand_in = ModuleType(f"kernels.{op}.triton_impl")
    setattr(stand_in, op, launched)
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    registered = getattr(import_module(f"kernels.{op}.custom_op"), op)._backend_fns["cuda"]
    assert len(registered(*arguments)) == 1
    assert not current
