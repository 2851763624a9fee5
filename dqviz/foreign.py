"""Our checkpoints in the formats of other programs, with what each format could not hold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import BadInput
from quant.exports import check_out, export_checkpoint, list_exports
from quant.sources import Source

from .export import base_of
from .files import faults
from .planning import quiet_diffusers

if TYPE_CHECKING:
    from quant.schema import Sampler


def export_to(
    checkpoint: Path,
    to: str,
    out: Path,
    *,
    base: str | None = None,
    steps: int | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint in another format; what `dqviz export` prints.

    Args:
        checkpoint: folder that `quantize_to` wrote, a transformer's or a whole pipeline's.
        to: key of the format, one of `quant.exports.list_exports()`.
        out: a file or folder as the format's card says; nothing is written over.
        base: pipeline whose sampler counts the windows; by default the one that the checkpoint names.
        steps: of that sampler; by default those of the pipeline's card.
        offline: read a base on the hub from the cache alone.

    Returns:
        `lossy` has an entry for every site that the format cannot hold as it is: what is lost, and what
        was written instead, `dequantized` where that is an ordinary layer in full size. A site without one has the checkpoint's dequantized weights to the bit.

    Raises:
        BadInput: an unknown format, an `out` in the way, a damaged checkpoint, or a plan that the format
            cannot express.
    """
    cards = list_exports()
    if to in cards:
        check_out(cards[to], out)  # before anything is loaded
    counted = to in cards and cards[to].steps
    if not counted and (base is not None or steps is not None):
        counting = ", ".join(key for key, card in cards.items() if card.steps)
        raise BadInput(
            f"--base and --steps are for counting windows: with --to {counting}, not {to}"
        )
    sampler = _sampler(checkpoint, base, steps, offline) if counted else None
    with faults(out):
        made = export_checkpoint(checkpoint, to, out, sampler=sampler)
    return {
        "out": str(out),
        "format": to,
        "files": [str(file) for file in made.files],
        "size_bytes": sum(file.stat().st_size for file in made.files),
        "lossy": [asdict(loss) for loss in made.lossy],
        "warnings": list(made.warnings),
    }


def _sampler(
    checkpoint: Path, base: str | None, steps: int | None, offline: bool
) -> Sampler | None:
    """The sampler of a checkpoint's pipeline; None where all its windows have the same formats."""
    from quant.checkpoint import check_checkpoint
    from quant.loading import open_model

    plan = check_checkpoint(checkpoint).plan
    if all(len(set(site.activations)) == 1 for site in plan.sites.values()):
        return None
    whole = (checkpoint / "model_index.json").is_file()
    quiet_diffusers()
    named = base or (str(checkpoint) if whole else base_of(checkpoint))
    return open_model(Source(ref=named, offline=offline), device="cpu").sampler(steps)
