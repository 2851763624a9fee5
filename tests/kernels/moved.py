"""A plugin of pytest, `-p tests.kernels.moved`: what tests hand to a Triton kernel goes to the GPU and comes back.

So the tests of `tests/kernels/interpreted/`, which are written for the CPU, judge the kernels of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.calls import OPS

DEVICE = torch.device("cuda")


def moved(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`function` on tensors of `device`; its results lie where its first tensor did."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        home = next(a.device for a in arguments if isinstance(a, Tensor))
        result = function(*(there(a, device) for a in arguments))
        if isinstance(result, Tensor):
            return result.to(home)
        return tuple(part.to(home) for part in result)

    return run


def there(a: Any, device: torch.device) -> Any:
    """A tensor on the device with the strides that it has here; anything else as it is."""
    if not isinstance(a, Tensor):
        return a
    return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device=device).copy_(a)


def launchers(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions of a `triton_impl.py` that others call, by name."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if isfunction(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.fixture(autouse=True)
def kernels_run_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every launcher of every op."""
    for op in OPS:
        module = import_module(f"kernels.{op}.triton_impl")
        for name, function in launchers(module).items():
            monkeypatch.setattr(module, name, moved(function, DEVICE))
