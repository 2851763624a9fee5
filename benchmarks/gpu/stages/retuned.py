"""The whole step once more, with the tiles that were found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from kernels.tables import VARIABLE, file

from ..place import Place
from ..stage import Row, Stage
from . import step, tuning

STAGE = Stage(
    order=40,
    title="Whole step, tuned",
    what="the whole step with the tiles that were found",
    minutes=3,
    needs=step.STAGE.needs,
)
WAYS = ("w8a8", "w4a8")
CONFIGS = "configs"  # folder of tables beside the rows


def rows(place: Place) -> Iterator[Row]:
    """Ours alone, beside compiled and eager bfloat16 as before."""
    stands = [step.Stand(place, scene) for scene in (step.TINY if place.dry else step.SCENES[:3])]
    for way in WAYS:
        for stand in stands:
            key = f"retuned/{stand.scene.name}, {way}"
            yield Row(key, 75, partial(with_tiles, place, stand, way))


def with_tiles(place: Place, stand: step.Stand, way: str) -> dict[str, Any]:
    """As in the stage of the step, the launcher reading the run's own table."""
    found = tuning.tables(place.rows)
    if not found:
        return {"left_out": {way: "no tile was found to be faster"}}
    folder = place.rows.folder / CONFIGS
    for table, tiles in found.items():
        path = file(folder, place.architecture, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": tiles}), encoding="utf-8")
    os.environ[VARIABLE] = str(folder)
    try:
        return {**stand.row(way), "tiles": sum(map(len, found.values()))}
    finally:
        del os.environ[VARIABLE]
