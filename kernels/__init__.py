"""Operations on tensors: packing, row quantization, Hadamard rotation, quantized linear layers.

An op is a folder ``kernels/<op>/``: ``reference.py`` is its definition in plain PyTorch, other files
hold faster versions of the same numbers, ``__init__.py`` is what callers use. An op module is
callable, so ``kernels.hadamard(x)`` and ``kernels.hadamard.factors(1152)`` both work, as does
``from kernels.hadamard import hadamard``. Ops load on first use; importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

DQVIZ = True  # tells our packages apart from another distribution that is called `kernels`


def ops() -> tuple[str, ...]:
    """Names of all ops, alphabetically: the folders that hold a definition."""
    return tuple(sorted(p.parent.name for p in Path(__file__).parent.glob("*/reference.py")))


def __getattr__(name: str) -> Any:
    if name in ops():
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; ops: {', '.join(ops())}")


def __dir__() -> list[str]:
    return sorted({*globals(), *ops()})
