"""How fast the Activations page answers: opening it, and a click on a cell of its map.

    .venv/bin/python -m benchmarks.activations                  (some minutes; writes captures of the sizes named below)
    .venv/bin/python -m benchmarks.activations --clicks 5 --out /tmp/speed

A headless Chromium with software drawing opens the app from a cold cache and clicks random cells
that were not asked for before. A click is answered when the panels in view have been drawn and the
browser has painted. Writes activations.json and activations.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from dqviz.machine import processor
from dqviz.study import Study
from dqviz.study_folder import RECORDED, studies_root
from tests.app.conftest import CHROMIUM, FLAGS, run_server
from tests.captures import write_capture

ROOT = Path(__file__).resolve().parent.parent
# Name -> what is written: cells of the map, and the size of DiT-XL/2.
CAPTURES: dict[str, dict[str, Any]] = {
    "map 28 x 6 x 50": {"blocks": 28, "inputs": 6, "steps": 50, "channels": 256, "tokens": 256, "reservoir": 512},
    "DiT-XL/2": {"blocks": 28, "inputs": 4, "steps": 50, "channels": 1152, "tokens": 256, "reservoir": 512, "surface_steps": 8},
}  # fmt: skip
TARGETS = {"click_ms": 300, "opens_s": {"recorded": 3.0, "DiT-XL/2": 2.0}}

# In the page: the time from a click to the next paint after the answer was drawn.
WATCH = """() => {
  const root = document.querySelector('.dq-activations');
  window.answered = [];
  let began = null;
  document.addEventListener('click', () => { began = performance.now(); }, true);
  new MutationObserver(() => {
    if (began === null) return;
    const from = began;
    began = null;
    requestAnimationFrame(() => setTimeout(() => window.answered.push(performance.now() - from)));
  }).observe(root, { attributes: true, attributeFilter: ['data-shown'] });
}"""
CELL = """([row, step]) => {
  const gd = document.querySelector('.dq-mapstage .dq-plot'), box = gd.getBoundingClientRect();
  const {xaxis: x, yaxis: y} = gd._fullLayout;
  return [box.left + x._offset + x.l2p(step), box.top + y._offset + y.l2p(row)];
}"""


def opens(browser: Any, url: str, study: str, times: int) -> list[float]:
    """Seconds from asking for the page to its map and the panels in view, each from a cold cache."""
    found = []
    for _ in range(times):
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        page = context.new_page()
        began = time.perf_counter()
        page.goto(f"{url}activations?study={study}")
        page.wait_for_selector(".dq-activations[data-shown]")
        found.append(time.perf_counter() - began)
        context.close()
    return found


def clicks(browser: Any, url: str, study: str, times: int) -> list[float]:
    """Milliseconds from a click on a cell to its panels, for as many different cells."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{url}activations?study={study}")
    page.wait_for_selector(".dq-activations[data-shown]")
    page.wait_for_timeout(1000)
    page.evaluate(WATCH)
    rows = page.evaluate("document.querySelectorAll('#dq-site option').length")
    steps = page.evaluate("Number(document.querySelector('#dq-stepper').max) + 1")
    pick = random.Random(0)
    for n in range(times):
        page.mouse.click(*page.evaluate(CELL, [pick.randrange(rows), pick.randrange(steps)]))
        page.wait_for_function("n => window.answered.length > n", arg=n)
    found = page.evaluate("window.answered")
    page.close()
    return found


def server_times(study: Path, times: int) -> list[float]:
    """Milliseconds in which the server puts the panels of a cell together."""
    from dqviz.ui.activations import Captures
    from dqviz.ui.library import Library

    captures = Captures(Library(study))
    seen = captures.open(study.name, None).seen
    pick = random.Random(1)
    found = []
    for _ in range(times):
        query = {"study": study.name, "want": ["panels"], "site": pick.choice(seen.inputs).name, "step": pick.randrange(seen.steps)}  # fmt: skip
        began = time.perf_counter()
        json.dumps(captures.answer(query), allow_nan=False)
        found.append(1000 * (time.perf_counter() - began))
    return found


def written(name: str, scratch: Path) -> Path:
    """A study with a capture of that size."""
    folder = studies_root() / name.lower().replace(" ", "").replace("/", "-")
    model = {"key": folder.name, "title": name, "fingerprint": "synthetic"}
    study = Study.create(folder, model, {})
    study.add_capture("synthetic", write_capture(scratch / "c.safetensors", **CAPTURES[name]), {})
    return folder


def recorded() -> Path | None:
    """The recorded study that has a capture."""
    for manifest in sorted(RECORDED.glob("*/study.json")):
        if Study.open(manifest.parent, read_only=True).captures():
            return manifest.parent
    return None


def spread(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3), "n": len(values)}  # fmt: skip


def measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, as JSON."""
    from playwright.sync_api import sync_playwright

    from dqviz.ui.bench import Bench
    from dqviz.ui.library import Library
    from dqviz.ui.server import make_app

    studies = {name: written(name, scratch) for name in CAPTURES}
    found = recorded()
    if found is not None:
        studies["recorded"] = found
    busy = psutil.cpu_percent(3.0)
    rows: dict[str, Any] = {}
    url, stop = run_server(make_app(Bench(library=Library(found))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for name, folder in studies.items():
            study = Study.open(folder, read_only=True)
            file = folder / study.captures()[-1]["file"]
            rows[name] = {
                "bytes": file.stat().st_size,
                "opens_s": spread(opens(browser, url, folder.name, given.opens)),
                "click_ms": spread(clicks(browser, url, folder.name, given.clicks)),
                "server_ms": spread(server_times(folder, given.clicks)),
            }
            print(name, rows[name], file=sys.stderr, flush=True)
        browser.close()
    stop()
    return {
        "command": "python -m benchmarks.activations",
        "date": datetime.date.today().isoformat(),
        "device": processor(),
        "busy_percent": busy,
        "evidence": "measured",
        "targets": TARGETS,
        "rows": rows,
    }


def markdown(found: dict[str, Any]) -> str:
    """The results as a page."""
    lines = [
        "# Speed of the Activations page",
        "",
        "Written by `python -m benchmarks.activations` from `docs/results/activations.json`; do not edit.",
        "",
        f"{found['device']}; {found['date']}; measured, with {found['busy_percent']:.0f} % of the processor busy with other",
        "work when it began. Headless Chromium without a GPU, 1440 x 1000. *Opens*: from asking for the page, with an empty",
        "cache, until its map and the panels in view are drawn. *Click*: on random cells of the map that were not asked for",
        "before, until the panels in view are painted. *Server*: its part of a click. Median (least to most).",
        "",
        "| capture | file MB | opens, s | click, ms | server, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in found["rows"].items():
        cells = [f"{row[k]['median']:.{d}f} ({row[k]['least']:.{d}f} to {row[k]['most']:.{d}f})" for k, d in (("opens_s", 2), ("click_ms", 0), ("server_ms", 0))]  # fmt: skip
        lines.append(f"| {name} | {row['bytes'] / 1e6:.1f} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Targets: a click {found['targets']['click_ms']} ms; opening {found['targets']['opens_s']['recorded']:g} s on the recorded study, "
        f"{found['targets']['opens_s']['DiT-XL/2']:g} s on one of DiT-XL/2's size; on two idle cores.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--opens", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DQVIZ_HOME"] = scratch
        found = measure(given, Path(scratch))
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    (given.out / "activations.json").write_text(text, encoding="utf-8")
    (given.out / "activations.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
