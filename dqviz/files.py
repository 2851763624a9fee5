"""Files as we write them: JSON and text under a temporary name first, errors in one line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quant.errors import BadInput, EnvironmentFault


def read_json(file: Path) -> Any:
    """Read a JSON file of a study; BadInput when it is gone or damaged."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{file} is missing; restore it, or start a new study folder") from None
    except ValueError as error:
        raise BadInput(f"{file} is not JSON ({error}); restore it, or start a new folder") from None


def dump(data: object) -> str:
    """Compact JSON text; NaN and infinity are a mistake of ours and raise ValueError."""
    return json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def write_json(file: Path, data: object) -> None:
    """Write JSON atomically."""
    text = json.dumps(data, allow_nan=False, indent=1, ensure_ascii=False)
    write_text(file, text + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with faults(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def faults(where: Path) -> Iterator[None]:
    """Turn the operating system's errors on writing `where` into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EnvironmentFault(f"the disk is full while writing {where}; free some") from None
        raise EnvironmentFault(f"cannot write {where}: {error.strerror or error}") from None


def now() -> str:
    """The time in UTC, to the second."""
    return written(datetime.now(UTC).timestamp())


def written(seconds: float) -> str:
    """A Unix time in UTC, to the second: texts that sort as times do."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
