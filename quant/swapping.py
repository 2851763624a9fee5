"""Copies of a network that share its tensors, and other modules in the places of its own."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from .amplified import carry_over


def shallow_copy(module: nn.Module) -> nn.Module:
    """A copy whose structure can be changed freely and whose tensors are the original's own."""
    memo: dict[int, Any] = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)


def swap(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule `name`; what amplifies its input stays."""
    carry_over(root.get_submodule(name), new)
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, last, new)
