"""Take the README's picture: the Compare page over a real comparison, in the system's Chromium.

    make pictures

Draws eight pictures with the embedded model in full precision and with both methods (the study
stays in studies/readme and is used again), serves the app over it and writes docs/pictures/.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "studies" / "readme"
OUT = ROOT / "docs" / "pictures"
COMPARISON = [
    "compare",
    "dit-emoji",
    "--method",
    "rtn",
    "--method",
    "viditq",
    "--bits",
    "w4a4",
    "--seeds",
    "0-7",
]
VIEW = {"width": 1280, "height": 1040}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answered(url: str, seconds: float = 60) -> None:
    """Wait until the server answers."""
    for _ in range(int(seconds * 4)):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise SystemExit(f"{url} does not answer")


def take(url: str, browser: str) -> None:
    """One picture of the page."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        page = chromium.new_page(viewport=VIEW, color_scheme="light")
        page.goto(url)
        page.wait_for_selector("img[src^='data:'], img[src^='blob:']", timeout=60_000)
        page.wait_for_timeout(4000)  # plots and fonts settle
        page.screenshot(path=OUT / "compare-large.png", full_page=False)
        chromium.close()
    picture = Image.open(OUT / "compare-large.png").convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(OUT / "compare.png", optimize=True)
    (OUT / "compare-large.png").unlink()


def main() -> int:
    """Compare, serve, take."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("there is no chromium here; on Debian: apt-get install chromium")
    if not (STUDY / "study.json").is_file():
        command = [sys.executable, "-m", "dqviz", *COMPARISON, "--out", str(STUDY)]
        subprocess.run(command, cwd=ROOT, check=True)
    OUT.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "dqviz", "app", "--port", str(port), "--study", str(STUDY)]
    server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    try:
        answered(f"http://127.0.0.1:{port}/")
        take(f"http://127.0.0.1:{port}/", browser)
    finally:
        server.terminate()
        server.wait(20)
    size = (OUT / "compare.png").stat().st_size
    sys.stdout.write(f"docs/pictures/compare.png: {size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
