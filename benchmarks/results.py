"""What every result says of the device that it was measured on, and how it is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqviz.files import write_json, write_text
from dqviz.machine import processor, with_threads
from quant.errors import DQVizError

from .bars import Bars, svg


def device() -> str:
    """The processor, with the threads that torch computes on, in float32."""
    import torch

    return f"{with_threads(processor(), torch.get_num_threads())}, float32"


def written(
    name: str,
    folder: Path,
    measure: Callable[[], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
    figure: Callable[[dict[str, Any]], list[Bars]] = lambda found: [],
    caption: str = "",
) -> int:
    """Measure, and write `name`.json, its page, and its ratios as bars into a folder; the exit status."""
    try:
        found = measure()
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", found)
    write_text(folder / f"{name}.md", markdown(found))
    bars = [group for group in figure(found) if group.ratios]
    if bars:
        write_text(folder / f"{name}.svg", svg(caption, bars))
    return 0
