"""What is installed, what it means, and what is in the way: `dqviz doctor`.

Nothing of ours is imported at module level but `provenance` and `machine`'s plain numbers, because
a shadowed `quant` or `kernels` is one of the things to find.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .provenance import NAMES, foreign, origin

GIB = 2**30
MIN_MEMORY, MIN_DISK = 2 * GIB, 1 * GIB
MIN_PYTHON = (3, 11)

# package -> (needed for everything?, what it is for)
PACKAGES = {
    "torch": (True, "computing"),
    "diffusers": (True, "pipelines and schedulers"),
    "transformers": (True, "text encoders"),
    "gradio": (True, "the app (dqviz app)"),
    "plotly": (True, "the app's plots"),
    "triton": (False, "GPU kernels; without it the CPU and simulated backends run"),
    "torchao": (False, "compare --candidate with torchao checkpoints; a peer in dqviz bench"),
    "ray": (False, "sensitivity --ray"),
    "playwright": (False, "browser tests"),
}
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Check:
    """One finding. `required` ones that are not ok make `dqviz doctor` exit with 3."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    required: bool = True


def checks() -> list[dict[str, Any]]:
    """Every finding as {name, ok, detail, fix, required}."""
    found = [_python(), *_ours()]
    found += [_package(name, *about) for name, about in PACKAGES.items()]
    found += [_device(), _cores(), _memory(), _disk(), _studies(), _chromium(), _models()]
    return [asdict(check) for check in found]


def healthy(found: list[dict[str, Any]]) -> bool:
    """Whether everything that is required is fine."""
    return all(check["ok"] for check in found if check["required"])


def _python() -> Check:
    ok = sys.version_info >= MIN_PYTHON
    detail = f"{platform.python_version()} at {sys.executable}; dqviz {__version__}"
    return Check("python", ok, detail, "" if ok else "use Python 3.11 or later")


def _ours() -> list[Check]:
    return [
        Check(name, found.ours, found.path or "absent", "" if found.ours else found.sentence())
        for name in NAMES
        for found in [origin(name)]
    ]


def _package(name: str, required: bool, purpose: str) -> Check:
    if importlib.util.find_spec(name) is None:
        fix = f"pip install {name}"
        return Check(name, not required, f"absent: {purpose}", fix if required else "", required)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    return Check(name, True, f"{version}: {purpose}", required=required)


def _processor() -> str:
    """Its name in brackets; nothing while a package of ours is shadowed, since ours names it."""
    if foreign():
        return ""
    from .machine import processor

    return f" ({processor()})"


def _device() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("device", False, "unknown: torch is absent", "pip install torch")
    import torch

    if not torch.cuda.is_available():
        detail = f"CPU{_processor()}; torch sees no CUDA GPU"
        return Check("device", True, detail, required=False)
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    detail = f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
    return Check("device", True, detail, required=False)


def _cores() -> Check:
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    return Check("cores", True, f"{usable} of {count} usable", required=False)


def _memory() -> Check:
    if foreign():
        return Check("memory", True, "not looked at: a package of ours is shadowed", required=False)
    from .machine import available_memory

    free = available_memory()
    fix = "" if free >= MIN_MEMORY else "close other programs, or use a larger machine"
    return Check("memory", free >= MIN_MEMORY, f"{free / GIB:.1f} GiB free", fix)


def _disk() -> Check:
    place = _studies_root().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    fix = "" if free >= MIN_DISK else "free some disk space, or set DQVIZ_HOME to another disk"
    return Check("disk", free >= MIN_DISK, f"{free / GIB:.1f} GiB free at {place}", fix)


def _studies_root() -> Path:
    return Path(os.environ.get("DQVIZ_HOME", ".")) / "studies"


def _studies() -> Check:
    root = _studies_root().absolute()
    place = root
    while not place.exists():
        place = place.parent
    ok = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    state = "exists" if root.is_dir() else "will be made"
    fix = "" if ok else f"make {place} writable, or set DQVIZ_HOME"
    return Check("studies folder", ok, f"{root} ({state})", fix)


def _chromium() -> Check:
    name = "chromium"
    found = next((path for n in _CHROMIUMS if (path := shutil.which(n))), None)
    if found is None and importlib.util.find_spec("playwright") is not None:
        found = _playwright_chromium()
    if found is not None:
        return Check(name, True, f"{found}: browser tests run", required=False)
    fix = "python -m playwright install chromium"
    return Check(name, False, "absent: browser tests are skipped", fix, required=False)


def _playwright_chromium() -> str | None:
    """Path of the Chromium that Playwright would start, if it is there."""
    program = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    path = done.stdout.strip()
    return path if path and Path(path).is_file() else None


def _models() -> Check:
    if foreign():
        return Check("models", False, "not looked at: a package of ours is shadowed")
    from quant.models import embedded_models

    names = sorted(embedded_models())
    if names:
        return Check("models", True, f"embedded: {', '.join(names)}", required=False)
    detail = "no embedded model found: only folders and hub models can be named"
    return Check("models", False, detail, "get the repository with its assets/", required=False)
