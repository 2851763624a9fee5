"""What may be asked of a benchmark."""

from __future__ import annotations

import os
from typing import Self

from kernels.dispatch import VARIABLE
from quant.errors import BadInput, unknown
from quant.schema import Value

from ..request import DEVICES

FEWEST_TUNED = 7  # runs: fewer leave the noise of the machine in a table that decides for months


class BenchRequest(Value):
    """Times of one model's layers."""

    model: str = "dit-emoji"  # or a shape known by name
    device: str = "auto"
    tune: bool = False
    runs: int = 15  # of each way, after one that is not counted
    batch_size: int = 1  # samples of one evaluation

    @classmethod
    def parse(cls, data: object, where: str = "request") -> Self:
        """Validate plain data from the command line or a file."""
        return super().parse(data, where)


def check_fields(request: BenchRequest) -> None:
    """What can be told at once; raises BadInput."""
    named = os.environ.get(VARIABLE) or "auto"
    if named != "auto":
        raise BadInput(f"{VARIABLE}={named} lets one backend run; all are timed, so unset it")
    if request.device not in DEVICES:
        raise unknown("device", request.device, DEVICES, f"They are: {', '.join(DEVICES)}")
    least = FEWEST_TUNED if request.tune else 1
    if not least <= request.runs <= 1000:
        what = "; --tune wants more than a glance" if 0 < request.runs < least else ""
        raise BadInput(f"runs {request.runs} is out of range; {least} to 1000{what}")
    if not 1 <= request.batch_size <= 1024:
        raise BadInput(f"batch size {request.batch_size} is out of range; 1 to 1024")
