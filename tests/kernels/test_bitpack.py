"""Dense packing: exact, dense, and the documented bit order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.bitpack import pack, unpack


def by_hand(row: list[int], bits: int) -> list[int]:
    """The definition, one bit at a time."""
    stream = [code >> t & 1 for code in row for t in range(bits)]
    stream += [0] * (-len(stream) % 8)
    return [
        sum(bit << t for t, bit in enumerate(stream[i : i + 8])) for i in range(0, len(stream), 8)
    ]


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 8), rows=st.integers(0, 4), n=st.integers(0, 40), data=st.data())
def test_round_trip_and_bit_order(bits: int, rows: int, n: int, data: st.DataObject) -> None:
    code = st.integers(0, 2**bits - 1)
    values = data.draw(
        st.lists(st.lists(code, min_size=n, max_size=n), min_size=rows, max_size=rows)
    )
    codes = torch.tensor(values, dtype=torch.uint8).reshape(rows, n)
    before = codes.clone()
    packed = pack(codes, bits)
    assert packed.tolist() == [by_hand(row, bits) for row in values]
    assert packed.shape == (rows, -(-n * bits // 8))
    assert torch.equal(unpack(packed, bits, n), codes)
    assert torch.equal(codes, before)


@pytest.mark.parametrize("bits", range(1, 9))
def test_views_pack_like_their_copies(bits: int, generator: torch.Generator) -> None:
    codes = torch.randint(0, 2**bits, (24, 10), generator=generator, dtype=torch.uint8).T[:, ::2]
    packed = pack(codes, bits)
    assert torch.equal(packed, pack(codes.contiguous(), bits))
    assert torch.equal(unpack(packed, bits, 12), codes)
    packed.zero_()  # the result is memory of its own, at 8 bits too
    assert codes.any()


def test_a_code_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="code 64 does not fit in 6 bits; the largest is 63"):
        pack(torch.tensor([[3, 64]], dtype=torch.uint8), 6)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    codes = torch.zeros(1, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        pack(codes, bits)
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        unpack(codes, bits, 4)


def test_what_is_no_byte_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"codes is torch.int64 of shape \(1, 1\)"):
        pack(torch.zeros(1, 1, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r"codes is torch.uint8 of shape \(4,\)"):
        pack(torch.zeros(4, dtype=torch.uint8), 4)
    with pytest.raises(
        ValueError, match="rows of 3 bytes do not hold 4 codes of 4 bits, which take 2"
    ):
        unpack(torch.zeros(1, 3, dtype=torch.uint8), 4, 4)
