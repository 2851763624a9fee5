"""How a tab follows a job of the Compare page: screens as updates of its widgets, until another job is followed there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import gradio as gr

from .bench import Bench
from .progress import PATIENCE, Screen

LONGEST_FAREWELL = 5.0  # seconds
HIDDEN: Literal["hidden"] = "hidden"  # and still in the page: what is not there sends no value


class _Follower:
    """A handler that tells a tab about one job, until another is told there."""

    def __init__(self) -> None:
        self.replaced = asyncio.Event()
        self.ended = asyncio.Event()

    async def replace(self) -> None:
        """End it; what it still says arrives before this returns, if its browser is there at all."""
        self.replaced.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), LONGEST_FAREWELL)

    async def sleep(self, seconds: float) -> None:
        """Wait so long, or until it is replaced."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.replaced.wait(), seconds)


class Following:
    """What every tab shows: one handler tells it, the latest."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._latest: dict[str, _Follower] = {}  # by tab

    async def tell(
        self, job_id: str | None, open_study: str | None, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Updates of status, result, Run, Cancel and the list of studies, as long as the job runs."""
        if not job_id:
            yield [gr.skip()] * 5
            return
        session, me = str(request.session_hash), _Follower()
        before, self._latest[session] = self._latest.get(session), me
        if before is not None:
            await before.replace()
        follow = self._bench.follow(job_id, open_study)
        try:
            while not me.replaced.is_set() and not follow.over:
                screen = await asyncio.to_thread(follow.look)
                if screen is not None and not me.replaced.is_set():
                    yield [*_updates(screen), _studies(self._bench, screen)]
                if not follow.over:  # an end that comes late would be told over what is asked next
                    await me.sleep(PATIENCE)
            yield [gr.skip()] * 5  # Gradio says the last update again when the handler has ended
        finally:
            me.ended.set()
            if self._latest.get(session) is me:
                del self._latest[session]


def _studies(bench: Bench, screen: Screen) -> Any:
    """The list of studies once a job is over: it may have made one."""
    address = screen.view.address if screen.view is not None else None
    if screen.running or not address:
        return gr.skip()
    names = list(bench.library.folders())
    return gr.update(choices=names, value=address, visible=True if len(names) > 1 else HIDDEN)


def _updates(screen: Screen) -> list[Any]:
    """A screen as updates of status, result, Run and Cancel."""
    stoppable = screen.running and screen.status["state"] != "cancelling"
    return [
        status_of(screen),
        result_of(screen),
        gr.update(value="Run next" if screen.running else "Run"),
        gr.update(interactive=stoppable, value="Cancel"),
    ]


def status_of(screen: Screen) -> Any:
    """The screen's status as an update."""
    return gr.update(status_json=screen.status_json)


def result_of(screen: Screen) -> Any:
    """What of the page the screen changes, as an update."""
    changed: dict[str, Any] = {}
    if screen.view is not None:
        changed["view_json"] = screen.view.to_json()
    if screen.live is not None:
        changed["live_json"] = screen.live_json
    return gr.update(**changed) if changed else gr.skip()
