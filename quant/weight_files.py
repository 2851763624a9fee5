"""Files of weights on disk, read by their headers alone."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadCheckpoint

if TYPE_CHECKING:
    import torch

_STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def safetensors_header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file, checked against the file's own size."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= size - 8:
            raise BadCheckpoint(
                f"{file}: not a safetensors file, or cut off inside its header ({size} bytes)"
            )
        try:
            header = json.loads(stream.read(length))
            end = max(
                (e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadCheckpoint(
                f"{file}: not a safetensors file: its header is not readable"
            ) from None
    if end != size - 8 - length:
        raise BadCheckpoint(
            f"{file}: truncated or padded: its header promises {end + 8 + length} bytes, the file has {size}"
        )
    return header


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """Floating dtype that holds most of the weights in these files."""
    import torch

    counts: dict[str, int] = {}
    for file in files:
        for name, entry in safetensors_header(file).items():
            if name != "__metadata__" and entry["dtype"] in _STORED:
                low, high = entry["data_offsets"]
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + high - low
    return (
        getattr(torch, _STORED[max(counts, key=lambda k: counts[k])]) if counts else torch.float16
    )


def file_digest(file: Path) -> str:
    """First 16 hex digits of the sha256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
