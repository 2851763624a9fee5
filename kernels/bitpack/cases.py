"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import pack, unpack


def _case(o: int, n: int, bits: int) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(bits)
        codes = torch.randint(0, 2**bits, (o, n), generator=generator, dtype=torch.uint8)
        packed = pack(codes, bits, backend)
        return packed, unpack(packed, bits, n, backend)

    return run


CASES = {
    f"{o}x{n} {bits}-bit": _case(o, n, bits) for o, n, bits in ((3, 63, 6), (5, 17, 4), (1, 1, 1))
}
