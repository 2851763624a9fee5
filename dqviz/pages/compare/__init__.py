"""Compare: full precision next to every method, from the same seeds, and what was lost and saved.

`render` turns the result of a comparison (finished, running or cancelled) into a `View`. It reads
nothing: pictures and drifts are handed in, so a stored result gives the same page anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant.errors import BadInput

from ...command_lines import as_command
from ...request import CompareRequest
from ..view import Section, View
from .claims import claim, headline
from .curves import ladder, trajectory
from .frames import over_time
from .grid import Pictures, drawn_as, page_size, picture_grid
from .names import full_name, run_bits, run_name, source_of
from .numbers import metrics, pairs
from .sites import scope

TITLE = "Compare"

__all__ = [
    "TITLE",
    "claim",
    "command",
    "empty",
    "full_name",
    "page_size",
    "render",
    "run_bits",
    "run_name",
]


def empty() -> View:
    """The page before anything was compared."""
    return View(
        (
            {
                "kind": "empty",
                "title": "See what quantization changes",
                "text": (
                    "The same seeds are drawn twice: once in full precision, once with each method. "
                    "Press Run; the form is filled in already."
                ),
                "steps": [
                    {"title": "Draw", "text": "Pictures appear while they are denoised."},
                    {
                        "title": "Look",
                        "text": "Slide between two pictures, amplify their difference.",
                    },
                    {"title": "Judge", "text": "Intervals, a yardstick, megabytes saved."},
                ],
            },
        )
    )


def render(
    result: Mapping[str, Any],
    pictures: Pictures | None = None,
    drifts: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, str] | None = None,
    address: str | None = None,
) -> View:
    """The page of one comparison.

    Args:
        result: what `dqviz.compare` returns, or the part of it that exists so far.
        pictures: data URLs by run name.
        drifts: error along the trajectory by run name.
        files: files of the study that can be downloaded: label -> name.
        address: name of the study, for the page's address.
    """
    runs = list(result.get("runs") or ())
    sections = [headline(result, runs), picture_grid(result, runs, pictures or {}, address)]
    quantized, what = runs[1:], drawn_as(result, runs)
    source = source_of(result, runs)
    if drifts:
        sections.append(trajectory(runs, drifts, source))
    if quantized:
        sections.append(metrics(runs, source, result.get("lossless") or (), what))
    sections += over_time(runs, source)
    if result.get("pairs"):
        sections.append(pairs(result, runs, source))
    if quantized and result.get("ladder"):
        sections.append(ladder(result, runs, source, what))
    if quantized:
        sections.append(scope(quantized, source))
    sections += _closing(result, files or {}, address, what)
    return View(tuple(sections), address)


def _closing(
    result: Mapping[str, Any], files: Mapping[str, str], address: str | None, what: str
) -> list[Section]:
    sections: list[Section] = []
    line = command(result.get("request"))
    if line:
        sections.append(
            {
                "kind": "command",
                "title": "The same on the command line",
                "lede": f"Draws the same {what}s and adds them to the same study.",
                "text": line,
            }
        )
    if files and address:
        sections.append(
            {
                "kind": "downloads",
                "title": "Take it with you",
                "study": address,
                "items": [{"label": label, "file": file} for label, file in files.items()],
            }
        )
    return sections


def command(request: Mapping[str, Any] | None) -> str:
    """The command line of a request; empty when it cannot be told."""
    if not request:
        return ""
    try:
        parsed = CompareRequest.parse(dict(request))
    except BadInput:
        return ""
    return as_command(parsed)
