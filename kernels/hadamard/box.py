"""How a row is laid out as a box of three axes for rotation by a matrix unit, one factor along each axis."""

from __future__ import annotations

import math

from .reference import factors

AXES = 3
LARGEST_BOX = 16384  # elements of a row with its padding that a program holds


def rotation_orders(c: int) -> tuple[int, ...]:
    """Three orders whose product is c, the leading ones 1 where `kernels.hadamard` takes fewer factors.

    Raises ValueError, with the reason, where there are none.
    """
    orders = factors(c)
    if math.prod(orders) != c:
        raise ValueError(f"{c} channels rotate in blocks, which has no Triton version")
    if len(orders) > AXES:
        raise ValueError(
            f"{c} channels rotate by {len(orders)} factors; the Triton version takes {AXES}"
        )
    padded = (1,) * (AXES - len(orders)) + orders
    box = math.prod(padded_order(order) for order in padded if order > 1)
    if box > LARGEST_BOX:
        raise ValueError(
            f"{c} channels take {box} elements padded; the Triton version holds {LARGEST_BOX}"
        )
    return padded


def padded_order(order: int) -> int:
    """The next power of two that is at least 16, the smallest operand of a matrix unit."""
    return max(16, 1 << (order - 1).bit_length())


def rotation_obstacle(c: int) -> str | None:
    """Why rows of c channels cannot be rotated inside a Triton kernel, or None."""
    try:
        rotation_orders(c)
    except ValueError as error:
        return str(error)
    return None
