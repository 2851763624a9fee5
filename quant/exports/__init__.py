"""Checkpoints in the formats of other programs: one file each, listed by their cards without importing them.

An export file states `CARD = ExportCard(...)` with literal arguments and

    write(checkpoint, out) -> Exported

    checkpoint   quant.exports.opened.Opened: a checkpoint of ours, read site by site
    out          what to write: a file that is not there, or a folder that is there and empty

A foreign format holds less than ours. Whatever it cannot hold is in `Exported.lossy`, site by site, with
what stands in its place; where nothing is listed for a site, its dequantized weights are ours to the bit.
What cannot be expressed at all is `BadInput`. Writing the file is all it takes to join `dqviz export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from ..card_files import CardFiles
from ..errors import BadInput

if TYPE_CHECKING:
    from ..schema import Sampler


@dataclass(frozen=True)
class ExportCard:
    """What a format says about itself."""

    key: str
    title: str
    writes: Literal["folder", "file"]
    holds: str  # of a checkpoint, exactly
    loses: str  # always, or where it cannot hold it
    source: str  # where its layout was read
    checked: str  # what has opened it
    suffix: str = ""  # of the file
    steps: bool = False  # whether windows are counted in steps of a sampler


@dataclass(frozen=True)
class Lossy:
    """What a format could not hold of one site (or attention), and what was written instead."""

    site: str
    lost: str
    written: str
    dequantized: bool = False  # an ordinary linear in full size was written


@dataclass(frozen=True)
class Exported:
    """What was written: every file, and what they do not hold."""

    files: tuple[Path, ...]
    lossy: tuple[Lossy, ...] = ()
    warnings: tuple[str, ...] = ()


_FILES = CardFiles(__name__, Path(__file__).parent, ExportCard, "format")


def list_exports() -> dict[str, ExportCard]:
    """Every format's card by key; imports none of them."""
    return _FILES.cards


def load_export(key: str) -> ModuleType:
    """Import the module of one format."""
    return _FILES.load(key)


def export_checkpoint(
    folder: Path, key: str, out: Path, *, sampler: Sampler | None = None
) -> Exported:
    """Write a checkpoint of ours in another format; `out` appears complete or not at all.

    Args:
        folder: of the checkpoint, a transformer's or a whole pipeline's.
        key: of the format.
        out: a file or folder, as the format's card says; nothing is written over.
        sampler: that windows are counted with, for formats whose card says `steps`.

    Raises:
        BadInput: an unknown format, an `out` that holds somebody's files, a damaged checkpoint, or one
            that the format cannot express at all.
    """
    module = load_export(key)
    card: ExportCard = module.CARD
    check_out(card, out)

    from .opened import open_checkpoint

    checkpoint = open_checkpoint(folder, sampler)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as aside:
        partial = Path(aside) / out.name
        if card.writes == "folder":
            partial.mkdir()
        made: Exported = module.write(checkpoint, partial)
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    files = tuple(out / file.relative_to(partial) for file in made.files)
    return Exported(files, made.lossy, made.warnings)


def check_out(card: ExportCard, out: Path) -> None:
    """Stop where something is in the way: nothing is written over."""
    if card.writes == "file":
        if out.exists():
            what = "is a folder" if out.is_dir() else "exists"
            raise BadInput(
                f"{out} {what}; name a file that is not there, e.g. {out.with_name('new' + card.suffix)}"
            )
        if out.suffix != card.suffix:
            raise BadInput(
                f"{card.key} writes a {card.suffix} file, not {out.name}; e.g. {out.name}{card.suffix}"
            )
    elif out.is_file():
        raise BadInput(f"{out} is a file; {card.key} writes a folder, name a new or empty one")
    elif out.is_dir() and any(out.iterdir()):
        first = min(path.name for path in out.iterdir())
        raise BadInput(
            f"folder {out} is not empty ({first}); nothing is written over, name a new folder, "
            f"e.g. {out / 'new'}"
        )
