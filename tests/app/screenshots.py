"""Take the pictures of every page: `make pictures`, or `python -m tests.app.screenshots --pages tour`.

The app is started without a study of one's own, so that the pages show the recorded one, as on a
fresh machine. A page of `shell.ROUTES` is pictured by existing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.app.conftest import CHROMIUM, FLAGS, run_server

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SIZES = {1440: 960, 390: 900}  # width -> height in CSS pixels
LARGEST = 5_000_000  # bytes of all pictures together

# What has to stand on a page before it is pictured, as a condition in JavaScript.
READY = {
    "compare": "document.querySelector('.dq-plot .scatterlayer') && document.querySelector('.dq-diffpanel .dq-sub').textContent",
    "activations": "document.querySelector('.dq-plot .heatmaplayer image') && document.querySelectorAll('.dq-plot .main-svg').length > 2",
    "precision": "document.querySelector('.dq-precision[data-shown]')",
    "methods": "[...document.querySelectorAll('.dq-methods .dq-plot')].some(p => p._fullLayout?.xaxis?._length)",
    "tour": "[...document.querySelectorAll('.dq-tour img')].length > 2 && [...document.querySelectorAll('.dq-tour img')].every(i => i.complete)",
}
# Where a narrow page is scrolled to: past its form.
NARROW = {"compare": "#dq-results"}


def take(browser: Any, url: str, name: str, path: str, width: int, scheme: str) -> Path:
    """One picture of a page as it opens."""
    size = {"width": width, "height": SIZES[width]}
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto(url + path)
    page.wait_for_function(READY.get(name, "document.querySelector('.dq-card')"))
    if width < 640 and name in NARROW:
        page.evaluate(f"document.querySelector('{NARROW[name]}').scrollIntoView()")
    page.wait_for_timeout(800)  # figures have been drawn; fonts and transitions settle
    target = FOLDER / f"{name}-{scheme}-{width}.png"
    page.screenshot(path=target)
    page.close()
    return target


def pack(file: Path) -> None:
    """The same pixels in fewer bytes."""
    from PIL import Image

    with Image.open(file) as picture:
        pixels = picture.convert("RGB")
    pixels.save(file, optimize=True)


def main() -> None:
    """Serve the app over the recorded study and take the pictures."""
    from playwright.sync_api import sync_playwright

    from dqviz.ui import shell
    from dqviz.ui.bench import Bench
    from dqviz.ui.server import make_app

    known = {route.path or "compare": route.path for route in shell.ROUTES}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pages", default=",".join(known), help=f"of {', '.join(known)}")
    wanted = parser.parse_args().pages.split(",")
    if not set(wanted) <= set(known):
        raise SystemExit(f"no such page: {', '.join(set(wanted) - set(known))}; there are {', '.join(known)}")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DQVIZ_HOME"] = scratch
        url, stop = run_server(make_app(Bench()))
        FOLDER.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            files = [
                take(browser, url, name, known[name], width, scheme)
                for name in wanted
                for width in SIZES
                for scheme in ("light", "dark")
            ]
        stop()
    for file in files:
        pack(file)
    total = sum(file.stat().st_size for file in FOLDER.glob("*.png"))
    print(f"{len(files)} pictures in {FOLDER}; all there take {total / 1e6:.2f} MB")
    if total > LARGEST:
        raise SystemExit(f"the pictures take {total} bytes; at most {LARGEST}")


if __name__ == "__main__":
    main()
