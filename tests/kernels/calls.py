"""The custom ops, and the arguments that PyTorch's checks and a GPU call them with."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import kernels

OPS = [op for op in kernels.ops() if "triton" in getattr(kernels, op).OP.versions]
CALLS = [(op, name) for op in OPS for name in import_module(f"kernels.{op}.cases").CALLS]


def call(op: str, name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The custom op of `op` and the arguments of one of its `CALLS`."""
    arguments = import_module(f"kernels.{op}.cases").CALLS[name]()
    import_module(f"kernels.{op}.custom_op")
    return getattr(torch.ops.dqviz, op).default, arguments


def parts(result: Any) -> tuple[Tensor, ...]:
    """What an op gives, as a tuple."""
    return result if isinstance(result, tuple) else (result,)
