#!/usr/bin/env python3
"""Write requirements.lock: what a fresh environment gets from pyproject.toml, as plain pins.

`make lock` runs it. Versions without hashes and without local labels, because the torch wheel
differs by machine; accelerator libraries that a torch wheel brings along are left to it.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEAD = """\
# Written by `make lock` from pyproject.toml: dependencies and the extras dev and ray. Do not edit.
# No hashes and no "+cpu": pip resolves the torch wheel of the machine at hand.
"""
PINNED = ["torch==2.13.0", 'triton==3.7.1; sys_platform == "linux"']
# Installed by some torch wheels only, or pinned above.
LEFT_OUT = re.compile(r"^(nvidia-|cuda-|torch==|triton==|dq-viz|pip==|wheel==)")
LINUX_ONLY = ("uvloop",)


def main() -> None:
    """Install into a throw-away environment and write down what came."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["dev"] + extras["ray"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "-qq"]
        subprocess.run([*pip, "install", "--upgrade", *PINNED, *wanted], check=True)
        freeze = [*pip, "freeze", "--all"]
        lines = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout.split(
            "\n"
        )
    pins = [
        re.sub(r"\+[\w.]+$", "", line)
        for line in lines
        if "==" in line and not LEFT_OUT.match(line)
    ]
    pins = [p + '; sys_platform == "linux"' if p.startswith(LINUX_ONLY) else p for p in pins]
    LOCK.write_text(HEAD + "\n".join(sorted([*pins, *PINNED], key=str.lower)) + "\n")
    sys.stdout.write(f"{LOCK.name}: {len(pins) + len(PINNED)} packages\n")


if __name__ == "__main__":
    main()
