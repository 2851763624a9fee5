"""Transformer families: one file each, found by existing."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from .base import GROUP_OF_ROLE, Adapter, Prediction, Site, adapter_for, adapters

__all__ = ["GROUP_OF_ROLE", "Adapter", "Prediction", "Site", "adapter_for", "adapters", "load_all"]


@cache
def load_all() -> tuple[Adapter, ...]:
    """One instance of every adapter in this folder that speaks for a class."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in {"__init__", "base", "producers", "prompted"}:
            importlib.import_module(f".{path.stem}", __package__)
    return tuple(cls() for cls in _leaves(Adapter) if hasattr(cls, "transformer_class"))


def _leaves(cls: type[Adapter]) -> list[type[Adapter]]:
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in _leaves(sub)] if below else [cls]
