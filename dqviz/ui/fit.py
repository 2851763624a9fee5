"""The card under the Compare form: what it would take of memory, time and disk, before it is run.

It is told by a process of its own, which ends at once: the app itself never loads torch.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from quant.errors import DQVizError, EnvironmentFault

from ..pages.fit import BUSY, NOTHING, card, refused
from ..request import CompareRequest
from . import components
from .form import Form

PATIENCE = 120.0  # seconds


def button() -> gr.Button:
    """What asks."""
    return gr.Button("Will it fit?", elem_id="dq-check")


def answer(text: str) -> gr.HTML:
    """The card that answers, for the form as a command."""
    return components.fit(NOTHING, text, elem_id="dq-fit")


def wire(
    asks: gr.Button,
    shown: gr.HTML,
    controls: Sequence[Any],
    form: Callable[[Sequence[Any]], Form],
    local_folders: bool,
) -> Any:
    """Answer a click; a card says which form it is of, and the page shows it beside that form alone."""

    async def on_check(*values: Any) -> AsyncIterator[Any]:
        of = ""
        try:
            filled = form(values)
            of = filled.command()
            yield _update(BUSY, of)
            found = card(await asyncio.to_thread(ask, filled.request(local_folders)))
        except DQVizError as error:
            found = refused(str(error))
        yield _update(found, of)

    return asks.click(
        on_check,
        list(controls),
        shown,
        trigger_mode="once",
        concurrency_limit=2,
        show_progress="hidden",
        api_visibility="private",
    )


def _update(found: Mapping[str, Any], of: str) -> Any:
    return gr.update(card_json=json.dumps({**found, "of": of}))


def ask(request: CompareRequest) -> dict[str, Any]:
    """What `dqviz.preflight` says of a comparison; raises EnvironmentFault where it says nothing."""
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        run = subprocess.run(
            [sys.executable, "-m", "dqviz.preflight"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            input=json.dumps(request.to_json()),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = json.loads(run.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise EnvironmentFault(
            f"nothing was told within {PATIENCE:.0f} s; try dqviz compare --preflight on the command line"
        ) from None
    if "error" in said:
        raise EnvironmentFault(said["error"])
    return said
