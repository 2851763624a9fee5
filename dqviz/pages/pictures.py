"""Pictures and clips of a study as a page carries them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from .. import clips


def data_urls(files: Sequence[Path]) -> list[str]:
    """PNG files as data URLs, clips as sheets of their frames; one that is gone becomes an empty text."""
    return [_url(_carried(f.read_bytes())) if f.is_file() else "" for f in files]


def still_urls(files: Sequence[Path]) -> list[str]:
    """PNG files as data URLs of pictures that stand still: of a clip the middle frame."""
    return [_url(_stilled(f.read_bytes())) if f.is_file() else "" for f in files]


def _carried(png: bytes) -> bytes:
    return clips.sheet(clips.frames_of(png)) if clips.is_clip(png) else png


def _stilled(png: bytes) -> bytes:
    if not clips.is_clip(png):
        return png
    frames = clips.frames_of(png)
    return clips.sheet(clips.still(frames)[None])


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
