"""The Tour page: which study it shows; what it shows comes from `dqviz.pages.tour`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from quant.errors import DQVizError

from ..pages import tour as page
from ..pages.pictures import still_urls
from ..pages.view import View
from ..studies import with_samples
from ..study import Study
from ..study_folder import is_recorded
from . import components
from .compare import PRIVATE, Bench
from .library import Library

MOST_PICTURES = 48  # samples of a comparison that the tour carries


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    with gr.Column(elem_id="dq-tourpage"):
        status = components.status("dq-tourstatus")
        shown = components.view([], page.empty().to_json(), "dq-tour")

    def on_load(request: gr.Request) -> list[Any]:
        view, message = opened(bench.library, request.query_params.get("study"))
        failed = {"state": "failed", "title": "Not shown:", "message": message}
        said = json.dumps(failed if message else {"state": "idle"})
        return [gr.update(status_json=said), gr.update(view_json=view.to_json())]

    blocks = Context.root_block
    assert blocks is not None
    blocks.load(on_load, None, [status, shown], **PRIVATE)


def opened(library: Library, name: str | None) -> tuple[View, str]:
    """The tour of the study of that name, else of the one named at the start, else of a recorded one.

    Returns the page, and why a study that was named is not shown.
    """
    if name:
        try:
            return toured(library.open(name), name), ""
        except DQVizError as error:
            return page.empty(), str(error)

    def rank(folder: Path) -> tuple[bool, bool]:
        return folder != library.pinned, not is_recorded(folder)

    for folder in sorted(library.folders().values(), key=rank):
        try:
            return toured(Study.open(folder, read_only=True), None), ""
        except DQVizError:
            continue
    return page.empty(), ""


def toured(study: Study, address: str | None) -> View:
    """The tour of a study's latest comparison."""
    result = with_samples(study.result(), study)
    names = [str(run["name"]) for run in page.stops(result["runs"])]
    return page.render(
        {**result, "samples": result.get("samples", [])[:MOST_PICTURES]},
        {name: still_urls(study.images(name)[:MOST_PICTURES]) for name in names},
        address=address,
        recorded=is_recorded(study.folder),
    )
