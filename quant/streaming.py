"""A transformer bigger than memory: the tensors of a layer are in memory while it runs, else on disk.

    open_streamed   blocks on the meta device, each layer with the places of its tensors; the rest in memory
    hooks           a layer reads its tensors before it runs and lets them go after
    value           one tensor of a layer that does not run, for whoever looks at weights
    put_away        what was made of a layer (packed integers) goes to disk as well

So one evaluation of the network reads every weight once, whatever the batch holds, and what draws,
calibrates and quantizes is the same code as for a model in memory. Layers, not whole blocks: some networks
call a part of a block from outside it (DiT's last norm takes the embedder of its first block).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import adapter_for
from .atomic import write_tensors
from .errors import BadCheckpoint, BadInput
from .stored_site import StoredSite
from .tensor_files import Place, places, read, write_in_turn
from .weight_files import safetensors_header

INDEX = "diffusion_pytorch_model.safetensors.index.json"
WHOLE = "diffusion_pytorch_model.safetensors"


@dataclass
class Paged:
    """The tensors of one module on disk, by their own names in it."""

    places: dict[str, tuple[Place, torch.dtype]]  # with the dtype that they are computed in
    device: torch.device
    users: int = 0  # of the tensors in memory, at this moment

    def read(self, name: str) -> Tensor:
        """One tensor as it is computed with."""
        place, dtype = self.places[name]
        return read(place).to(device=self.device, dtype=dtype)


def is_streamed(transformer: nn.Module) -> bool:
    """Whether tensors of a transformer lie on disk."""
    return any(_paged(module) is not None for module in transformer.modules())


def is_on_disk(module: nn.Module) -> bool:
    """Whether tensors of a module itself lie on disk at this moment."""
    paged = _paged(module)
    return paged is not None and not paged.users


def value(root: nn.Module, name: str) -> Tensor:
    """A tensor of a network by its full name, wherever it is."""
    owner, _, last = name.rpartition(".")
    module = root.get_submodule(owner)
    paged = _paged(module)
    if paged is not None and not paged.users and last in paged.places:
        return paged.read(last)
    return getattr(module, last)


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes, also while its tensors are on disk."""
    for part in module.modules():
        if (paged := _paged(part)) is not None:
            return paged.device
    return next(chain(module.parameters(), module.buffers())).device


@contextmanager
def present(*modules: nn.Module) -> Iterator[None]:
    """Have the tensors of modules in memory during a block of code."""
    entered = []
    try:
        for module in modules:
            if _paged(module) is not None:
                _enter(module)
                entered.append(module)
        yield
    finally:
        for module in entered:
            _leave(module)


def open_streamed(
    folder: Path, dtype: torch.dtype, device: torch.device, weights: Path | None = None
) -> nn.Module:
    """The transformer of a diffusers folder, with the tensors of its blocks left on disk.

    Args:
        folder: `transformer/` of a pipeline, in one or several safetensors files.
        dtype: that it computes in.
        device: that it computes on.
        weights: one file with all tensors, instead of the folder's.

    Raises BadCheckpoint where names or shapes of the files are not those of the diffusers class.
    """
    transformer = empty_transformer(folder)
    transformer.eval().requires_grad_(False)
    files = _files(folder) if weights is None else [weights]
    found = _checked(transformer, files, folder if weights is None else weights)
    kept = tuple(getattr(transformer, "_keep_in_fp32_modules", None) or ())
    inside = tuple(f"{name}." for name in adapter_for(transformer).blocks(transformer))
    for prefix, module in transformer.named_modules():
        start = f"{prefix}." if prefix else ""
        own = {}
        for name in _own_tensors(module):
            place = found.get(start + name)
            if place is None:
                continue  # made by the class, not stored
            exact = dtype == torch.float16 and set(kept) & set((start + name).split("."))
            to = torch.float32 if exact else dtype
            own[name] = place, to if place.dtype.is_floating_point else place.dtype
        if start.startswith(inside):
            page(module, own, device)
        else:
            for name in own:
                _set(module, name, read(own[name][0]).to(device=device, dtype=own[name][1]))
    for module in transformer.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                _set(module, name, buffer.to(device))
    return transformer


def page(
    module: nn.Module, own: dict[str, tuple[Place, torch.dtype]], device: torch.device
) -> None:
    """Leave the named tensors of a module itself on disk, for as long as it does not run."""
    if not own:
        return
    module.dqviz_paged = Paged(dict(own), device)  # type: ignore[assignment]
    if isinstance(module, StoredSite):
        module.keeps_codes = True  # on disk
    _let_go(module)
    module.register_forward_pre_hook(lambda module, _: _enter(module))
    module.register_forward_hook(lambda module, *_: _leave(module), always_call=True)


def put_away(layers: Mapping[str, StoredSite], file: Path) -> None:
    """Write the tensors of quantized layers to a file and leave them there.

    A basis that layers share is written once, and read by each.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[str, str], str] = {}
    first: dict[int, str] = {}
    for name, layer in layers.items():
        layer.forget()
        for own, buffer in layer.named_buffers(recurse=False):
            names[name, own] = first.setdefault(id(buffer), f"{name}.{own}")
            tensors[names[name, own]] = buffer
    shapes = {n: (tuple(t.shape), t.dtype) for n, t in tensors.items()}
    write_in_turn(file, shapes, tensors.__getitem__, {"format": "pt"})
    found = places(file)
    for name, layer in layers.items():
        device = layer.device
        own = {n: found[names[name, n]] for n, _ in layer.named_buffers(recurse=False)}
        page(layer, {n: (place, place.dtype) for n, place in own.items()}, device)


def rewrite(
    transformer: nn.Module,
    names: Iterable[str],
    changed: Callable[[str, Tensor], Tensor],
    scratch: Path,
) -> None:
    """Change tensors of a streamed transformer one by one; those of blocks go to files in `scratch`."""
    folder = Path(mkdtemp(prefix="changed-", dir=scratch))
    for number, name in enumerate(names):
        owner, _, last = name.rpartition(".")
        module = transformer.get_submodule(owner)
        tensor = changed(name, value(transformer, name))
        paged = _paged(module)
        if paged is None:
            _set(module, last, tensor)
            continue
        file = folder / f"{number}.safetensors"
        write_tensors(file, {last: tensor.cpu().contiguous()}, {"format": "pt"})
        paged.places[last] = places(file)[last], tensor.dtype


def resident_bytes(transformer: nn.Module, blocks: Sequence[str], dtype: torch.dtype) -> int:
    """What stays in memory of a transformer whose blocks are streamed, and the largest layer of those."""
    inside = tuple(f"{name}." for name in blocks)
    outside, largest = 0, 0
    for prefix, module in transformer.named_modules():
        size = sum(t.numel() for t in _own_tensors(module).values()) * dtype.itemsize
        if f"{prefix}.".startswith(inside):
            largest = max(largest, size)
        else:
            outside += size
    return outside + 2 * largest  # what is read, and what it is cast to


def _trim() -> None:
    """Have the C library return what is free to the system, where it is the GNU one: it keeps it otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def empty_transformer(folder: Path) -> nn.Module:
    """A network of the class and configuration of a transformer's folder, parameters on the meta device."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantized = "quantization_config" in config
    except (OSError, ValueError, TypeError) as error:
        raise _no_class(folder / "config.json", error) from None
    if quantized:
        raise BadInput(f"{folder}: holds a quantized transformer; take the full-precision one")
    return empty_network(config, folder / "config.json")


def empty_network(config: dict[str, Any], file: Path) -> nn.Module:
    """A network of the class and configuration that `file` holds, parameters on the meta device."""
    import diffusers
    from accelerate import init_empty_weights

    try:
        kind: Any = getattr(diffusers, config["_class_name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_class(file, error) from None
    with init_empty_weights():
        return kind.from_config(config)


def _no_class(file: Path, error: Exception) -> BadCheckpoint:
    return BadCheckpoint(f"{file}: no configuration of a diffusers class: {error}")


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a transformer: those that its index names, or the one there is."""
    if (folder / INDEX).is_file():
        try:
            names = set(
                json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            )
        except (ValueError, KeyError, AttributeError):
            raise BadCheckpoint(f"{folder / INDEX}: not an index of weight files") from None
        return [folder / Path(name).name for name in sorted(names)]
    return [folder / WHOLE]


def _checked(transformer: nn.Module, files: Sequence[Path], where: Path) -> dict[str, Place]:
    """Where every tensor lies: exactly those of the class, in its shapes."""
    found: dict[str, Place] = {}
    for file in files:
        if not file.is_file():
            raise BadCheckpoint(f"{where}: {file.name} is missing")
        safetensors_header(file)
        found |= places(file)
    expected = {name: tuple(t.shape) for name, t in transformer.state_dict().items()}
    faults = (
        (set(expected) - set(found), "is missing"),
        (set(found) - set(expected), "does not belong"),
        (
            {n for n in set(found) & set(expected) if found[n].shape != expected[n]},
            "has another shape",
        ),
    )
    for names, fault in faults:
        if names:
            raise BadCheckpoint(
                f"{where}: tensor '{min(names)}' {fault} ({len(names)} in all) in "
                f"{type(transformer).__name__}; blocks stay on disk only under diffusers' own names"
            )
    return found


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    own = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def _paged(module: nn.Module) -> Paged | None:
    return module.__dict__.get("dqviz_paged")


def _enter(module: nn.Module) -> None:
    paged = _paged(module)
    assert paged is not None
    paged.users += 1
    if paged.users == 1:
        for name in paged.places:
            _set(module, name, paged.read(name))
        if isinstance(module, StoredSite):
            module.forget()  # what was made of tensors without data


def _leave(module: nn.Module) -> None:
    paged = _paged(module)
    assert paged is not None
    paged.users -= 1
    if not paged.users:
        _let_go(module)


def _let_go(module: nn.Module) -> None:
    paged = _paged(module)
    assert paged is not None
    for name, (place, dtype) in paged.places.items():
        _set(module, name, torch.empty(place.shape, dtype=dtype, device="meta"))
    if isinstance(module, StoredSite):
        module.forget()
    _trim()


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor
