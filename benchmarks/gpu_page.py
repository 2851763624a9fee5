"""What was measured on a GPU, as results: rows of `make gpu` to docs/results/gpu.* and to the launcher's tables.

    make gpu-results FROM=gpu-run           (python -m benchmarks.gpu_page gpu-run)

Writes gpu.json, with every row, gpu.md and gpu.svg into --out (docs/results), and the tiles that were found into
kernels/configs/<architecture>/int_linear_tiles.json and fp8_linear_tiles.json. A dry run is refused: its times are of the CPU and of the ops' definitions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from dqviz.files import write_json
from kernels.tables import file
from quant.errors import BadInput, DQVizError

from .gpu.place import Place
from .gpu.rows import Rows
from .gpu.stage import stages
from .gpu.stages.tuning import tables
from .gpu.work import left
from .gpu_tables import CAPTION, figure, markdown
from .results import written

ROOT = Path(__file__).resolve().parent.parent


def result(folder: Path) -> dict[str, Any]:
    """gpu.json of a folder of rows. BadInput for what is no run on a GPU."""
    rows = list(Rows(folder))
    calls = [row for row in rows if row["key"].startswith("call ")]
    if not calls:
        raise BadInput(f"{folder} holds no rows of a run; make them on a GPU: make gpu OUT={folder}")  # fmt: skip
    if any(row.get("dry_run") for row in rows):
        raise BadInput(f"{folder} is a dry run, whose times mean nothing; make gpu without --dry-run")  # fmt: skip
    first = calls[0]
    place = Place(torch.device("cpu"), Rows(folder))  # for what was to be done; nothing is
    return {
        "format": 1,
        "evidence": "measured",
        **{n: v for n, v in first.items() if n not in ("key", "date", "clocks")},
        "date": calls[-1]["date"],
        "calls": [{n: call[n] for n in ("date", "clocks")} for call in calls],
        "stages": {name: module.STAGE.title for name, module in stages().items()},
        "rows": [row for row in rows if row not in calls],
        "not_reached": left(place, stages()),
    }


def save_tiles(found: dict[str, Any], configs: Path) -> list[Path]:
    """The tables that the launchers read on this kind of GPU; none of an op where no tile gained."""
    head = {name: found[name] for name in ("device", "date", "versions")}
    paths = []
    for table, best in tables(found["rows"]).items():
        paths.append(file(configs, found["architecture"], table))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_json(paths[-1], {**head, "rows": best})
    return paths


def main() -> int:
    """Read the folder, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="what `make gpu` wrote")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--configs", type=Path, default=ROOT / "kernels" / "configs")
    given = parser.parse_args()
    try:
        found = result(given.folder)
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    said = [f"written: {path}" for path in save_tiles(found, given.configs)]
    print("\n".join(said) or "no tile gained", file=sys.stderr)
    return written("gpu", given.out, lambda: found, markdown, figure, CAPTION)


if __name__ == "__main__":
    sys.exit(main())
