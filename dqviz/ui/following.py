"""How a tab follows a job of the Compare page: it asks while the job is active, and is told what has changed.

The status strip asks (`web/form.js`), one plain request after another, and needs no event stream: of those Gradio has one
for all handlers of a tab, and what is said while a browser closes it is lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import gradio as gr

from .bench import Bench
from .progress import IDLE, Follow, Screen

HIDDEN: Literal["hidden"] = "hidden"  # and still in the page: what is not there sends no value


def told(
    bench: Bench, job_id: str | None, open_study: str | None, follow: Follow | None
) -> list[Any]:
    """Updates of status, result, Run, Cancel and the list of studies since the last time, and who follows.

    A job that is over is told whole again to a tab that still asks: the last answer has not arrived.
    """
    if not job_id:
        return [gr.skip()] * 6
    if follow is None or follow.over or follow.job_id != job_id:
        follow = bench.follow(job_id, open_study)
    screen = follow.look()
    if screen is None:
        return [*[gr.skip()] * 5, follow]
    stoppable = screen.running and screen.status["state"] != "cancelling"
    status = gr.update(status_json=screen.status_json)
    if follow.over:
        status["refused_json"] = ""  # how the job ended is not hidden by what was refused before
    return [
        status,
        result_of(screen),
        gr.update(value="Run next" if screen.running else "Run"),
        gr.update(interactive=stoppable, value="Cancel"),
        _studies(bench, screen, follow.aside),
        follow,
    ]


def _studies(bench: Bench, screen: Screen, aside: bool) -> Any:
    """The list of studies once a job is over: it may have made one, which is then shown, unless another was chosen."""
    if screen.running:
        return gr.skip()
    names = list(bench.library.folders())
    listed = gr.update(choices=names, visible=True if len(names) > 1 else HIDDEN)
    if aside:
        return listed
    address = screen.view.address if screen.view is not None else None
    return {**listed, "value": address} if address else gr.skip()


def followed(job_id: str | None) -> Any:
    """The status strip asks about this job from now on; what was refused before is forgotten."""
    return gr.update(follow=job_id or "", refused_json="")


def refused(screen: Screen) -> Any:
    """What was asked and not done, beside the status of a job that goes on."""
    return gr.update(refused_json=screen.status_json if screen.status["state"] == "failed" else "")


def opened(
    bench: Bench, study: str | None, screen: Screen, follow: Follow | None
) -> tuple[Any, Follow | None]:
    """The status strip once another study is shown, and who follows.

    A job that goes on keeps the strip, and the result as well where it writes into that study.
    """
    update = refused(screen)
    if follow is None or follow.over:
        update["status_json"] = IDLE.status_json
        return update, None
    if bench.writes_into(follow.job_id, study):
        return update, bench.follow(follow.job_id, study)
    return update, replace(follow, aside=True)


def result_of(screen: Screen) -> Any:
    """What of the page the screen changes, as an update."""
    changed: dict[str, Any] = {}
    if screen.view is not None:
        changed["view_json"] = screen.view.to_json()
    if screen.live is not None:
        changed["live_json"] = screen.live_json
    return gr.update(**changed) if changed else gr.skip()
