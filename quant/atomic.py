"""safetensors files that appear complete or not at all, and leave nothing behind when they do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], durable: bool = False
) -> None:
    """Write a file aside, then rename it; `durable` waits until the disk has it."""
    with replaced(path, durable) as file:
        save_file(tensors, file, metadata=metadata)


@contextmanager
def replaced(path: Path, durable: bool = False) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well.

    It lies in a folder of its own, which the next writer of this file removes when this process was
    killed: safetensors itself writes under a random name.
    """
    for left in path.parent.glob(f".{path.name}.*.partial"):
        process = left.name.split(".")[-2]
        if (
            not process.isdigit()
            or int(process) == os.getpid()
            or not psutil.pid_exists(int(process))
        ):
            shutil.rmtree(left, ignore_errors=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    aside.mkdir()
    try:
        file = aside / path.name
        yield file
        file.chmod(0o666 & ~_umask())  # safetensors keeps other people out
        if durable:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        file.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    """What this process takes away from the permissions of its files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
