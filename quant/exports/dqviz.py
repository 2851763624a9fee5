"""Our own checkpoint: checked tensor by tensor, then copied byte by byte."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..checkpoint import CONFIG, WEIGHTS
from . import ExportCard, Exported
from .opened import Opened

CARD = ExportCard(
    key="dqviz",
    title="DQ-Viz checkpoint",
    writes="folder",
    holds="everything; plain diffusers opens it after `import quant`",
    loses="nothing",
    source="`quant/checkpoint.py`",
    checked="diffusers, in the tests",
)


def write(checkpoint: Opened, out: Path) -> Exported:
    """The transformer's two files, as they are."""
    files = tuple(
        Path(shutil.copyfile(checkpoint.folder / name, out / name)) for name in (CONFIG, WEIGHTS)
    )
    return Exported(files)
