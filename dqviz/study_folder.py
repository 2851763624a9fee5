"""Where studies lie, and whether a folder is one or may become one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quant.errors import BadInput
from quant.schema import Lora, Outliers

from .files import read_json
from .measurements import slug

FORMAT = 1
KIND = "dqviz study"
MANIFEST = "study.json"
DATABASE = "study.sqlite"
REPORT = "report.html"
RECORDED = Path(__file__).parents[1] / "assets" / "studies"
_HARMLESS = frozenset({".DS_Store", ".gitignore", ".gitkeep", "Thumbs.db"})


def default_folder(
    model: str, outliers: Outliers | None = None, loras: Sequence[Lora] | None = None
) -> Path:
    """`studies/MODEL` under `$DQVIZ_HOME`, or under the current folder; its own with what changes a model."""
    written = model.partition("@")[0].rstrip("/").rpartition("/")[2].removesuffix(".safetensors")
    name = slug(written) or "model"
    for lora in loras or ():
        name += f"-lora-{slug(Path(lora.file).stem)}"
        name += f"-x{lora.scale:g}" if lora.scale != 1 else ""
    if outliers is not None:
        name += f"-{outliers.kind}-outliers-x{outliers.factor:g}"
        name += f"-seed-{outliers.seed}" if outliers.seed else ""
    return studies_root() / name


def studies_root() -> Path:
    """Folder that holds studies by default."""
    return Path(os.environ.get("DQVIZ_HOME", ".")) / "studies"


def is_recorded(folder: Path) -> bool:
    """Whether a study came with dqviz: it is read only, whatever the disk allows."""
    return folder.resolve().parent == RECORDED.resolve()


def check_folder(folder: Path) -> bool:
    """Whether `folder` is a study already; BadInput when it holds somebody's files, or is a file."""
    if folder.is_file():
        raise BadInput(f"{folder} is a file; name a new or empty folder")
    if not folder.is_dir():
        return False
    if (folder / MANIFEST).is_file():
        read_manifest(folder)
        return True
    strangers = sorted(p.name for p in folder.iterdir() if p.name not in _HARMLESS)
    if strangers:
        raise BadInput(
            f"folder {folder} holds files that are not a study's ({strangers[0]}, {len(strangers)} in all); "
            f"name a new or empty folder, e.g. {folder / 'study'}"
        )
    return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `study.json` says; BadInput where it is not a study's, damaged, or of a newer format."""
    file = folder / MANIFEST
    data = read_json(file)
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise BadInput(f"{file} is not a study's; name a new or empty folder")
    found = data.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise BadInput(
            f"{file}: study format {found} is newer than {FORMAT}, which this version reads; update dqviz"
        )
    if not isinstance(data.get("model"), dict) or not isinstance(data.get("versions"), dict):
        raise BadInput(f"{file} lacks its model or versions; restore it, or start a new folder")
    return data
