"""Clips as files, and as one sheet of frames that a page can step through.

A clip is an animated PNG: lossless, one file per sample like a picture, played by every browser, and
its first frame is what a program sees that knows only pictures. A page gets all frames side by side in
one picture, so that it can draw any of them at once; large ones are made smaller for that.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import dump

FRAMES_PER_SECOND = (
    8  # how fast clips are shown: nothing in a pipeline says how fast they are meant
)
SHEET_PIXELS = 2**20  # of a sheet, at most, so that pages stay light


@dataclass(frozen=True)
class Sheet:
    """How the frames of a clip lie in its sheet, row by row."""

    frames: int
    width: int  # of one frame in the sheet
    height: int
    columns: int
    shrunk: int  # pixels of the clip per pixel of the sheet, in each direction

    @classmethod
    def of(cls, frames: int, height: int, width: int) -> Sheet:
        """For clips of so many frames of h x w pixels."""
        shrunk = max(1, math.ceil(math.sqrt(frames * height * width / SHEET_PIXELS)))
        columns = math.ceil(math.sqrt(frames))
        return cls(frames, math.ceil(width / shrunk), math.ceil(height / shrunk), columns, shrunk)

    def to_json(self) -> dict[str, Any]:
        """For the page."""
        return {**vars(self), "fps": FRAMES_PER_SECOND}


def describe(pixels: np.ndarray) -> dict[str, Any] | None:
    """What a run's record says of its clips [n, f, h, w, 3]; None for pictures [n, h, w, 3]."""
    if pixels.ndim == 4:
        return None
    frames, height, width = pixels.shape[1:4]
    return {"frames": frames, "height": height, "width": width, "fps": FRAMES_PER_SECOND}


def sheet_of(run: Mapping[str, Any]) -> Sheet | None:
    """The sheets of a run's clips by its record; None where it drew pictures."""
    clip = run.get("clip")
    if not clip or clip["frames"] < 2:
        return None
    return Sheet.of(int(clip["frames"]), int(clip["height"]), int(clip["width"]))


def write(file: Path, pixels: np.ndarray, note: Mapping[str, Any] | None = None) -> None:
    """Write a picture [h, w, 3] or a clip [f, h, w, 3], uint8; the note goes into the file."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if note is not None:
        info.add_text("dqviz", dump(note))
    first, *rest = (Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else [pixels]))
    if not rest:
        first.save(file, "png", pnginfo=info)
        return
    # Frames that say different things of blending are never joined, not even equal ones; without
    # transparency the two say the same.
    blend = [index % 2 for index in range(len(pixels))]
    first.save(
        file,
        "png",
        pnginfo=info,
        save_all=True,
        append_images=rest,
        duration=round(1000 / FRAMES_PER_SECOND),
        loop=0,
        blend=blend,
    )


def is_clip(png: bytes) -> bool:
    """Whether a PNG is animated."""
    head = png[: max(png.find(b"IDAT"), 0)]
    return b"acTL" in head


def frames_of(png: bytes) -> np.ndarray:
    """Every frame of a PNG, uint8 [f, h, w, 3]; one for a picture."""
    from PIL import Image, ImageSequence

    with Image.open(io.BytesIO(png), formats=["png"]) as image:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


def sheet(frames: np.ndarray) -> bytes:
    """Frames uint8 [f, h, w, 3] side by side as `Sheet.of` lays them, as a PNG."""
    from PIL import Image

    lay = Sheet.of(*frames.shape[:3])
    rows = math.ceil(lay.frames / lay.columns)
    whole = Image.new("RGB", (lay.columns * lay.width, rows * lay.height))
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame)
        row, column = divmod(index, lay.columns)
        small = image.reduce(lay.shrunk) if lay.shrunk > 1 else image
        whole.paste(small, (column * lay.width, row * lay.height))
    buffer = io.BytesIO()
    whole.save(buffer, "png", compress_level=2)
    return buffer.getvalue()


def still(pixels: np.ndarray) -> np.ndarray:
    """One picture [h, w, 3] that stands for a picture or for a clip: its middle frame."""
    return pixels[len(pixels) // 2] if pixels.ndim == 4 else pixels
