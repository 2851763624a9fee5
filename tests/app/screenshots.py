"""Take the pictures of the Compare page: `python -m tests.app.screenshots [--study DIR]`.

Without a study, `dit-emoji` is compared first (RTN and ViDiT-Q at W4A4, seeds 0-7).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.app.conftest import CHROMIUM, FLAGS, run_server

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SIZES = {1440: 1040, 390: 1100}  # width -> height in CSS pixels
LARGEST = 1_000_000  # bytes of all pictures together


def compared(folder: Path) -> Path:
    """A study of the embedded model."""
    from dqviz.comparison import compare
    from dqviz.request import CompareRequest

    request = {"model": "dit-emoji", "methods": "rtn,viditq", "bits": "w4a4", "out": folder}
    compare(CompareRequest.parse(request))
    return folder


def take(browser: Any, url: str, width: int, scheme: str) -> Path:
    """One picture of the page as it opens on its study."""
    size = {"width": width, "height": SIZES[width]}
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector(".dq-plot .scatterlayer")
    page.wait_for_function("document.querySelector('.dq-diffpanel .dq-sub').textContent")
    if width < 640:
        page.evaluate("document.querySelector('#dq-results').scrollIntoView()")
    page.wait_for_timeout(500)
    target = FOLDER / f"compare-{scheme}-{width}.png"
    page.screenshot(path=target)
    page.close()
    return target


def packed(file: Path) -> int:
    """The same pixels in fewer bytes; how many."""
    from PIL import Image

    with Image.open(file) as picture:
        pixels = picture.convert("RGB")
    pixels.save(file, optimize=True)
    return file.stat().st_size


def main() -> None:
    """Draw the study if need be, serve it, take the pictures."""
    from playwright.sync_api import sync_playwright

    from dqviz.ui.compare import Bench
    from dqviz.ui.library import Library
    from dqviz.ui.server import make_app

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, help="study folder to show")
    study = parser.parse_args().study
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DQVIZ_HOME"] = scratch  # no other study is listed
        study = study or compared(Path(scratch) / "dit-emoji")
        url, stop = run_server(make_app(Bench(library=Library(study.resolve()))))
        FOLDER.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            schemes = ("light", "dark")
            files = [take(browser, url, w, scheme) for w in SIZES for scheme in schemes]
        stop()
    total = sum(packed(file) for file in files)
    print(f"{len(files)} pictures in {FOLDER}: {total / 1e3:.0f} kB")
    if total > LARGEST:
        raise SystemExit(f"the pictures take {total} bytes; at most {LARGEST}")


if __name__ == "__main__":
    main()
