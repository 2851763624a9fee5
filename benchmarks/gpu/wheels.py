"""What an image with PyTorch and CUDA lacks, carried along: fetched where there is a network, installed where there is none.

    make gpu-wheels                     (python -m benchmarks.gpu.wheels fetch .gpu-wheels)
    python -m benchmarks.gpu.wheels install .gpu-wheels --into DIR

Versions are those of requirements.lock; torch, triton, numpy and what CUDA brings are the image's. Installed is what the
image does not have, or has in an older version of the same major one, into a folder of its own: nothing of the image is
changed, nor what its other packages rely on. diffusers is of our minor version or replaced: `quant` knows that one alone. Peers go into a folder inside that one, which
the rows that need them look into: diffusers imports whatever it finds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_BYTES = 40 * 2**20
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
# diffusers, what it imports, and what `quant` imports for a whole step.
CARRIED = (
    *("diffusers", "huggingface_hub", "httpx2", "httpcore2", "truststore", "h11", "anyio", "idna"),
    *("requests", "urllib3", "certifi", "charset-normalizer", "regex", "pillow", "importlib_metadata", "zipp"),
    *("filelock", "fsspec", "packaging", "PyYAML", "tqdm", "click", "safetensors", "accelerate", "psutil"),
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions", "wrapt"),
)  # fmt: skip
REPLACED = ("diffusers",)
PEERS = ("torchao",)  # of the extra `peers` in pyproject.toml
APART = "peers"  # their folder


def pinned() -> dict[str, str]:
    """Name to `name==version` of all that is carried."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = {plain(name): f"{name}=={held}" for name, held in re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.M)}  # fmt: skip
    found |= {n: f"{n}=={v}" for n, v in re.findall(r'"(torchao)==([\w.]+)"', extras)}
    return {name: found[plain(name)] for name in (*CARRIED, *PEERS)}


def plain(name: str) -> str:
    """A distribution's name as names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fetch(folder: Path, python: str) -> int:
    """Download them for Linux on x86-64; the exit status. Fails above `MOST_BYTES`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]  # fmt: skip
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    status = subprocess.call([*command, *pinned().values()])
    if status:
        return status
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    print(f"{folder}: {size / 2**20:.1f} MiB")
    if size > MOST_BYTES:
        print(f"error: more than {MOST_BYTES // 2**20} MiB; carry less", file=sys.stderr)
        return 1
    return 0


def wanted(wheels: Iterable[str], held: Mapping[str, str | None]) -> list[str]:
    """Those of the wheels' file names to install, where `held` says which versions are there (None: not there)."""
    chosen = []
    for wheel in sorted(wheels):
        name, carried = wheel.split("-")[:2]
        there = held[plain(name)]
        if there is not None:
            own, other = numbers(there), numbers(carried)
            older = own[0] == other[0] and own < other
            if not older and (plain(name) not in REPLACED or own[:2] == other[:2]):
                continue
        chosen.append(wheel)
    return chosen


def numbers(version: str) -> tuple[int, ...]:
    """Of a version, without what follows them."""
    return tuple(int(part) for part in re.match(r"[\d.]*\d", version)[0].split("."))  # pyright: ignore[reportOptionalSubscript]


def install(folder: Path, into: Path) -> int:
    """What is missing here, without a network; the exit status."""
    wheels = [wheel.name for wheel in folder.glob("*.whl")]
    chosen = wanted(wheels, {plain(w.split("-")[0]): _version(w.split("-")[0]) for w in wheels})
    apart = [wheel for wheel in chosen if wheel.startswith(PEERS)]
    if (into / APART).is_dir():  # of an earlier call
        chosen, apart = [w for w in chosen if w not in apart], []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile"]  # fmt: skip
    for target, names in ((into, [w for w in chosen if w not in apart]), (into / APART, apart)):
        if names:
            print(f"installing into {target}: {', '.join(names)}", file=sys.stderr)
            files = [str(folder / name) for name in names]
            status = subprocess.call([*command, "--target", str(target), *files])
            if status:
                return status
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Fetch or install."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("fetch", "install"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--into", type=Path, help="install: folder for PYTHONPATH")
    parser.add_argument("--python", default="3.12", help="fetch: version of the GPU's Python")
    given = parser.parse_args()
    if given.what == "fetch":
        return fetch(given.folder, given.python)
    if given.into is None:
        parser.error("install needs --into")
    return install(given.folder, given.into)


if __name__ == "__main__":
    sys.exit(main())
