"""Sites that read one tensor: one change of basis between them, and codes that are made once.

q, k and v of an attention read one tensor, k and v of a cross-attention another. Where they hold one change
of basis, its rows are computed once (`share_bases`, which is also what a checkpoint stores once); where all
of them round these rows to the same integers, the integers are made once too (`share_codes`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .adapters import Site
from .layers import QuantLinear


def share_bases(transformer: nn.Module, sites: Iterable[Site]) -> None:
    """Quantized sites that read one tensor hold, and save, one copy of an equal change of basis."""
    for (name, holder), *others in _groups(transformer, sites):
        for _, layer in others:
            if _same_basis(layer, holder):
                layer.share_basis(name, holder)


def share_codes(transformer: nn.Module, sites: Iterable[Site]) -> None:
    """Quantized sites that read one tensor in one basis and one format make its codes once."""
    for (name, holder), *others in _groups(transformer, sites):
        if all(_same_codes(layer, name, holder) for _, layer in others):
            for _, layer in others:
                layer.share_codes(holder)


def _groups(transformer: nn.Module, sites: Iterable[Site]) -> list[list[tuple[str, QuantLinear]]]:
    """Quantized sites with their names, by the tensor that they read."""
    found: dict[str, list[tuple[str, QuantLinear]]] = {}
    for site in sites:
        layer = transformer.get_submodule(site.name)
        if isinstance(layer, QuantLinear):
            found.setdefault(site.input_of, []).append((site.name, layer))
    return list(found.values())


def _same_basis(one: QuantLinear, other: QuantLinear) -> bool:
    return one.basis_buffers == other.basis_buffers and all(
        torch.equal(one.get_buffer(name), other.get_buffer(name)) for name in one.basis_buffers
    )


def _same_codes(layer: QuantLinear, name: str, holder: QuantLinear) -> bool:
    if (layer.plan.activations, layer.windows) != (holder.plan.activations, holder.windows):
        return False
    changed = layer.transform.changes_input or holder.transform.changes_input
    return layer.basis_of == name or not changed
