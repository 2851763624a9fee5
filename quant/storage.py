"""The tensors of a transformer as they go to disk: which are written, in which dtype, and which once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import QuantLinear
from .streaming import value
from .tensor_files import Shapes


@dataclass(frozen=True)
class Stored:
    """What a checkpoint file holds."""

    tensors: Mapping[str, Tensor]  # made when they are asked for, one by one
    shared: dict[str, str]  # name that is left out -> name that holds the same values
    described: Callable[[str], tuple[tuple[int, ...], torch.dtype]]  # shape and dtype of a tensor

    def shapes(self) -> Shapes:
        """Of every tensor; codes are not made for it."""
        return {name: self.described(name) for name in self.tensors}


class _Made(Mapping[str, Tensor]):
    """Tensors by name, of which none is held."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def stored_tensors(transformer: nn.Module, dtype: torch.dtype) -> Stored:
    """Every tensor once; floating ones as `kept_dtype` says, but for the exact parts of quantized sites.

    Embedders are where families keep copies, so only they are compared; a change of basis that sites
    share is written at the first of them.
    """
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, QuantLinear)}
    exact = {
        f"{name}.{buffer}"
        for name, layer in layers.items()
        for buffer, _ in layer.named_buffers(recurse=False)
        if buffer not in (("weight",) if layer.transform.learned_bias else ("bias", "weight"))
    }
    divided = {f"{n}.bias" for layer in layers.values() for n in layer.transform.folded_into}
    folded = {f"{name}.weight" for name, m in layers.items() if not m.transform.requantized}

    def written_dtype(name: str, tensor: Tensor) -> torch.dtype:
        if name in divided:
            return torch.float32
        if name in exact or not tensor.is_floating_point():
            return tensor.dtype
        return dtype if name in folded else kept_dtype(tensor, dtype)

    def made(name: str) -> Tensor:
        tensor = value(transformer, name).detach().cpu().contiguous()
        return tensor.to(written_dtype(name, tensor))

    def described(name: str) -> tuple[tuple[int, ...], torch.dtype]:
        owner, _, last = name.rpartition(".")
        if name in exact:  # as it stands there: what stands for codes has their shape and dtype
            tensor = transformer.get_submodule(owner)._buffers[last]
            assert tensor is not None
        else:
            tensor = value(transformer, name)
        return tuple(tensor.shape), written_dtype(name, tensor)

    names = []
    shared = {
        f"{name}.{buffer}": f"{layer.basis_of}.{buffer}"
        for name, layer in layers.items()
        if layer.basis_of
        for buffer in layer.basis_buffers
    }
    first: dict[str, str] = {}
    for name in _names(transformer):
        if is_embedder(name):
            tensor = made(name)
            mark = f"{tensor.dtype}{tuple(tensor.shape)}{digest(tensor)}"
            if first.setdefault(mark, name) != name:
                shared[name] = first[mark]
                continue
        names.append(name)
    return Stored(_Made(names, made), shared, described)


def _names(network: nn.Module) -> Iterator[str]:
    """Of `state_dict`, in its order, and without it: that would make all codes which only products hold, at once."""
    for prefix, module in network.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and name not in module._non_persistent_buffers_set:
                yield start + name


def kept_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, what the model was loaded from, where that loses nothing; else the tensor's own.

    Weights that came from a file in `dtype` fit. Those that something was folded into may not.
    """
    if tensor.is_meta or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
        return dtype
    return tensor.dtype


def is_embedder(name: str) -> bool:
    """Whether a tensor belongs to an embedder that a family may copy into every block."""
    return ".emb." in name


def digest(tensor: Tensor) -> str:
    """First 16 hex digits of the sha256 of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(data).hexdigest()[:16]
