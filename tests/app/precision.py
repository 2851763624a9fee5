"""The page Sensitivity and precision in a browser: opening it, pointing at cells, reading what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dqviz.allocating import AllocateRequest, allocate
from dqviz.study_folder import studies_root
from tests.app.conftest import Served

Q0, V0 = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_v"
FC2 = "transformer_blocks.1.ff.net.2"
SHOWN = ".dq-precision[data-shown]"
TABLE = "label.dq-field:has(> span:text-is('Table')) select"
AVERAGE = "Weight bits, average, at most, bits"
DESK = "new URLSearchParams(location.hash.slice(1)).get('desk')"


def opened(page: Any, served: Served, query: str = "") -> Any:
    page.goto(served.url + "precision" + query)
    page.wait_for_selector(SHOWN)
    return page


def cell(page: Any, name: str, column: int) -> list[float]:
    """Pixel of a cell that is in view."""
    return page.evaluate(
        "([n, c]) => document.querySelector('.dq-precision').pixelOf(n, c)", [name, column]
    )


def total(page: Any, name: str) -> float:
    return float(page.locator(f"[data-total={name}]").inner_text())


def chosen(page: Any) -> int:
    return int(page.locator(".dq-mx-outer").get_attribute("data-selected"))


def bits(page: Any) -> dict[str, Any]:
    """The plan as it is downloaded."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download JSON").click()
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


def into_view(page: Any) -> None:
    page.locator(".dq-mx-outer").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.dq-mx-card').scrollIntoView()")
    page.evaluate("scrollBy(0, -160)")  # the totals stay above


def state(page: Any) -> dict[str, str]:
    """Everything that a link holds: plan, pins, budgets, ties."""
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")


def wait_for_text(page: Any, selector: str, text: str) -> None:
    """Until it stands there."""
    page.wait_for_function(
        "([s, t]) => document.querySelector(s).textContent.includes(t)", arg=[selector, text]
    )


def dot(page: Any, trace: str, point: int) -> list[float]:
    """Pixel of a point of the curve, once it is drawn."""
    page.wait_for_function(
        "n => document.querySelector('.dq-pareto .dq-plot')?.data?.some(t => t.name === n)",
        arg=trace,
    )
    page.locator(".dq-pareto .dq-plot").scroll_into_view_if_needed()
    return page.evaluate(
        """([name, i]) => {
          const plot = document.querySelector('.dq-pareto .dq-plot');
          const [trace, { xaxis, yaxis }] = [plot.data.find(t => t.name === name), plot._fullLayout];
          const box = plot.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(trace.x[i]), box.top + yaxis._offset + yaxis.d2p(trace.y[i])];
        }""",
        [trace, point],
    )


def asks(name: str) -> Callable[[Any], bool]:
    """Whether a request asks the server for this."""
    return lambda request: f'"{name}"' in (request.post_data or "")


class Line:
    """The line to the server: questions of one name get no answer until it is free; of these the first `most`."""

    def __init__(self, page: Any, name: str, most: int = 1000) -> None:
        self.page, self.asks, self.most = page, asks(name), most
        self.held: list[Any] = []
        page.route(lambda url: "/component_server" in url, self._pass)

    def _pass(self, route: Any) -> None:
        if len(self.held) < self.most and self.asks(route.request):
            self.held.append(route)
        else:
            route.fallback()

    def wait(self) -> None:
        """Until a question is held, which is a moment after the page has asked it."""
        for _ in range(6000):  # a guard against hanging
            if self.held:
                return
            self.page.wait_for_timeout(20)
        raise AssertionError("nothing is held")

    def free(self) -> None:
        """Questions go through, and those that were held."""
        for route in self._held():
            route.continue_()

    def drop(self) -> None:
        """Questions go through; those that were held never get there."""
        for route in self._held():
            route.abort("aborted")

    def _held(self) -> list[Any]:
        self.wait()
        self.most = 0
        return self.held


def kept(**asked: Any) -> str:
    """A plan that the study `mine` keeps; its name."""
    request = {"study": studies_root() / "mine", "budgets": {"avg_bits": 4}, **asked}
    return str(allocate(AllocateRequest.parse(request))["allocation"])
