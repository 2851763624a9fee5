"""How fast the page Sensitivity and precision answers a click, on a table of 28 blocks x 6 layers x 50 windows.

    .venv/bin/python -m benchmarks.precision                  (a minute; writes the table first)

A headless Chromium with software drawing opens the page and clicks random cells of the matrix, then sets bits. A click is
answered when the browser has painted what it changed. Writes precision.json and precision.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.activations import spread
from dqviz.machine import processor
from dqviz.study_folder import studies_root
from tests.app.conftest import CHROMIUM, FLAGS, run_server
from tests.tables import write_table

ROOT = Path(__file__).resolve().parent.parent
TABLE: dict[str, Any] = {"blocks": 28, "windows": 50, "steps": 50, "bits": ("3", "4", "6", "8")}
TARGET_MS = 300

# In the page: the time from an input to the paint after it.
WATCH = """() => {
  window.answered = [];
  for (const kind of ['pointerdown', 'keydown']) document.addEventListener(kind, () => {
    const from = performance.now();
    const end = kind === 'pointerdown' ? 'pointerup' : 'keyup';
    document.addEventListener(end, () => requestAnimationFrame(() => setTimeout(() => window.answered.push(performance.now() - from))), { once: true });
  }, true);
}"""


def inputs(page: Any, times: int) -> dict[str, list[float]]:
    """Milliseconds of clicks on cells, and of keys that set the bits of the cell."""
    root = "document.querySelector('.dq-precision')"
    page.get_by_role("button", name="Open all").click()
    page.evaluate("document.querySelector('.dq-mx-card').scrollIntoView()")
    page.evaluate("scrollBy(0, -160)")
    names = page.eval_on_selector_all(".dq-mx-name", "all => all.map(n => n.title)")
    page.evaluate(WATCH)
    pick = random.Random(0)
    found: dict[str, list[float]] = {"click_ms": [], "set_ms": []}
    for n in range(times):
        # Rows and columns that are in view: the matrix scrolls.
        place = [pick.choice(names[:18]), pick.randrange(20)]
        page.mouse.click(*page.evaluate(f"([n, c]) => {root}.pixelOf(n, c)", place))
        page.wait_for_function("n => window.answered.length > n", arg=2 * n)
        page.keyboard.press("34"[n % 2])
        page.wait_for_function("n => window.answered.length > n", arg=2 * n + 1)
    answered = page.evaluate("window.answered")
    found["click_ms"], found["set_ms"] = answered[::2], answered[1::2]
    return found


def measure(times: int) -> dict[str, Any]:
    """Everything, as JSON."""
    from playwright.sync_api import sync_playwright

    from dqviz.ui.bench import Bench
    from dqviz.ui.precision import Precision
    from dqviz.ui.server import make_app

    write_table(studies_root() / "large", **TABLE)
    busy = psutil.cpu_percent(3.0)
    bench = Bench()
    began = time.perf_counter()
    content = json.dumps(Precision(bench).answer({}), allow_nan=False)
    server_s = time.perf_counter() - began
    url, stop = run_server(make_app(bench))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        began = time.perf_counter()
        page.goto(f"{url}precision")
        page.wait_for_selector(".dq-precision[data-shown]", timeout=120_000)
        opens_s = time.perf_counter() - began
        page.wait_for_timeout(3000)  # the curve has been drawn
        found = inputs(page, times)
        browser.close()
    stop()
    return {
        "command": "python -m benchmarks.precision",
        "date": datetime.date.today().isoformat(),
        "device": processor(),
        "busy_percent": busy,
        "evidence": "measured",
        "target_ms": TARGET_MS,
        "cells": 28 * 6 * (1 + TABLE["windows"]),
        "bytes": len(content),
        "server_s": round(server_s, 3),
        "opens_s": round(opens_s, 3),
        **{name: spread(values) for name, values in found.items()},
    }


def markdown(found: dict[str, Any]) -> str:
    """The results as a page."""

    def told(name: str) -> str:
        return "{median:.0f} ({least:.0f} to {most:.0f})".format(**found[name])

    return "\n".join(
        [
            "# Speed of the page Sensitivity and precision",
            "",
            "Written by `python -m benchmarks.precision` from `docs/results/precision.json`; do not edit.",
            "",
            f"{found['device']}; {found['date']}; measured, with {found['busy_percent']:.0f} % of the processor busy with other",
            f"work when it began. Headless Chromium without a GPU, 1440 x 1000, a table of {found['cells']} cells (28 blocks x 6 layers x",
            "50 windows, and their weights). From an input to the paint after it, in ms: median (least to most).",
            "",
            "| click on a cell | set its bits | opening the page, s | sent once, MB |",
            "|---:|---:|---:|---:|",
            f"| {told('click_ms')} | {told('set_ms')} | {found['opens_s']:.1f} | {found['bytes'] / 1e6:.1f} |",
            "",
            f"Target: a click {found['target_ms']} ms, on two idle cores.",
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DQVIZ_HOME"] = scratch
        found = measure(given.clicks)
    print(found, file=sys.stderr)
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    (given.out / "precision.json").write_text(text, encoding="utf-8")
    (given.out / "precision.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
