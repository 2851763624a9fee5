"""Tensors whose bytes lie in files of a scratch folder: in memory where they were touched, until they are let go.

Room on the disk is taken before it is written to, so that a full disk is an error and not a crash. Where the
system cannot let pages go, or the folder lies in memory itself (tmpfs), nothing is saved.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SEGMENT = 2**27  # bytes of a file, at least
_ALIGNED = 64


class Mapped:
    """Room for tensors in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segments: list[mmap.mmap] = []
        self._used = 0  # of the last segment

    def full(
        self, shape: Sequence[int], value: float = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A tensor of this shape that holds `value`."""
        count = torch.Size(shape).numel()
        if not count:
            return torch.full(tuple(shape), value, dtype=dtype)
        size = -(-count * dtype.itemsize // _ALIGNED) * _ALIGNED
        if self._used + size > len(self._segments[-1] if self._segments else ()):
            self._add(max(size, SEGMENT))
        at, self._used = self._used, self._used + size
        found = torch.frombuffer(self._segments[-1], dtype=dtype, count=count, offset=at)
        found = found.reshape(tuple(shape))
        return found.fill_(value) if value else found

    def let_go(self) -> None:
        """Give the pages back: what is asked for again is read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for segment in self._segments:
                segment.madvise(mmap.MADV_DONTNEED)

    def _add(self, size: int) -> None:
        file = self._folder / f"totals-{len(self._segments)}"
        with file.open("wb+") as stream:
            stream.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
            self._segments.append(mmap.mmap(stream.fileno(), size))
        self._used = 0
