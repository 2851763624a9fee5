"""safetensors files one tensor at a time: only what is asked for is read, only one is held to write.

The bytes of a written file are those that the safetensors library writes for the same tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .atomic import replaced
from .errors import BadCheckpoint
from .weight_files import safetensors_header

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]

_NAMES = {  # in the order of the format's own dtype list, by which it sorts tensors
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_NAMES)}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class Place:
    """Where one tensor lies."""

    file: Path
    begin: int  # offset of its first byte in the file
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return tensor_bytes(self.shape, self.dtype)


def places(file: Path) -> dict[str, Place]:
    """Every tensor of a file, from its header; BadCheckpoint where that does not fit the file."""
    described = safetensors_header(file)
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    found = {}
    for name, entry in described.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise BadCheckpoint(
                f"{file}: tensor '{name}' is of dtype {entry['dtype']}, which is not read"
            )
        begin, dtype = start + entry["data_offsets"][0], _DTYPES[entry["dtype"]]
        found[name] = Place(file, begin, tuple(entry["shape"]), dtype)
    return found


def read(place: Place) -> Tensor:
    """One tensor, in memory of its own: nothing of the file stays mapped."""
    tensor = torch.empty(place.shape, dtype=place.dtype)
    if place.size:
        with place.file.open("rb", buffering=0) as stream:
            stream.seek(place.begin)
            left = tensor.reshape(-1).view(torch.uint8).numpy().data
            while left and (got := stream.readinto(left)):
                left = left[got:]
        if left:
            raise OSError(f"{place.file} ends {len(left)} bytes too early; it was changed")
    return tensor


def write_in_turn(
    path: Path,
    shapes: Shapes,
    tensor_of: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    durable: bool = False,
) -> None:
    """Write a file whose tensors are asked for one after the other; it appears complete or not at all.

    Args:
        path: of the file.
        shapes: shape and dtype of every tensor.
        tensor_of: gives the tensor of a name, which must be as `shapes` says.
        metadata: strings by name, for the header.
        durable: wait until the disk has it.
    """
    with replaced(path, durable) as file, file.open("wb") as stream:
        stream.write(header(shapes, metadata))
        for name in _ordered(shapes):
            tensor = tensor_of(name).detach().cpu().contiguous()
            assert (tuple(tensor.shape), tensor.dtype) == shapes[name], name
            if tensor.numel():
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def header(shapes: Shapes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors header: 8 bytes of length, then JSON padded to a multiple of 8.

    Tensors lie in the order of their dtype (last in the format's list first), then of their names.
    """
    listed: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in _ordered(shapes):
        shape, dtype = shapes[name]
        end = offset + tensor_bytes(shape, dtype)
        listed[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def named(shapes: Shapes) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes with the dtypes' names in the format: plain JSON types; the inverse of `unnamed`."""
    return {name: (shape, _NAMES[dtype]) for name, (shape, dtype) in shapes.items()}


def unnamed(described: Mapping[str, tuple[tuple[int, ...], str]]) -> Shapes:
    """Shapes from the names of their dtypes."""
    return {name: (shape, _DTYPES[dtype]) for name, (shape, dtype) in described.items()}


def tensor_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of one tensor."""
    return torch.Size(shape).numel() * dtype.itemsize


def _ordered(shapes: Shapes) -> list[str]:
    return sorted(shapes, key=lambda name: (-_RANK[shapes[name][1]], name))
