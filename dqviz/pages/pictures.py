"""Pictures of a study as a page carries them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path


def data_urls(files: Sequence[Path]) -> list[str]:
    """PNG files as data URLs; one that is gone becomes an empty text."""
    return [
        f"data:image/png;base64,{base64.b64encode(f.read_bytes()).decode()}" if f.is_file() else ""
        for f in files
    ]
