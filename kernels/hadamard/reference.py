"""Hadamard matrices of many orders, and rotation by their Kronecker products: the definition.

H is +-1 with H H^T = n I. Constructions, in exact integers:

    Sylvester   2n      [[H, H], [H, -H]]
    Paley I     q + 1   q prime, q = 3 mod 4:   I + S,  S = [[0, 1^T], [-1, Q]]
    Paley II    2(q+1)  q prime, q = 1 mod 4:   S x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]],
                        S = [[0, 1^T], [1, Q]],  Q_ij = Legendre symbol of i - j mod q
    product     n m     H_n x H_m (Kronecker)

Paley 1933. A rotation of order c = n1 n2 ... applies each factor along its own axis, which costs
n1 + n2 + ... multiply-adds per element instead of c.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from torch import Tensor

LARGEST = 512  # largest order that is applied as one dense matrix
SMALLEST_BLOCK = 32  # smallest block of the block-diagonal fallback
STAGE = 34  # of one more pass, in multiply-adds per element: as a fused kernel pays; alone on a CPU it is 80


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


@cache
def recipe(n: int) -> tuple[str, int] | None:
    """How the matrix of order n is built: construction and its parameter; None if none of ours fits."""
    if n & (n - 1) == 0:
        return ("sylvester", n)
    if n % 4:
        return None
    if _is_prime(n - 1):  # n = 0 mod 4 makes n - 1 = 3 mod 4
        return ("paley1", n - 1)
    q = n // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        return ("paley2", q)
    for a in range(2, math.isqrt(n) + 1):
        if n % a == 0 and recipe(a) and recipe(n // a):
            return ("product", a)
    return None


@cache
def matrix(n: int) -> Tensor:
    """int8[n, n] of order n on the CPU; callers must not write to it."""
    kind, p = recipe(n) or ("none", 0)
    if kind == "sylvester":
        h = torch.ones(1, 1, dtype=torch.int8)
        while len(h) < n:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        return h
    if kind == "paley1":
        return _conference(p, -1) + torch.eye(n, dtype=torch.int8)
    if kind == "paley2":
        a = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
        b = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
        return torch.kron(_conference(p, 1), a) + torch.kron(torch.eye(p + 1, dtype=torch.int8), b)
    if kind == "product":
        return torch.kron(matrix(p), matrix(n // p))
    raise ValueError(
        f"no Hadamard matrix of order {n} is known here; orders are 1, 2 and multiples of 4"
    )


def _conference(q: int, corner: int) -> Tensor:
    """int8[q + 1, q + 1]: zero diagonal, first row 1, first column `corner`, Legendre symbols inside."""
    legendre = torch.full((q,), -1, dtype=torch.int8)
    legendre[torch.arange(q) ** 2 % q] = 1
    legendre[0] = 0
    i = torch.arange(q)
    s = torch.ones(q + 1, q + 1, dtype=torch.int8)
    s[0, 0] = 0
    s[1:, 0] = corner
    s[1:, 1:] = legendre[(i[:, None] - i[None, :]) % q]  # [q, q]
    return s


@cache
def factors(c: int) -> tuple[int, ...]:
    """Orders of the Kronecker factors for c channels, the cheapest that were found.

    Their product is c. Where c has no such factorization it is the single order b of the fallback,
    c / b blocks of H_b with b the largest power of two that divides c.
    """
    best = _cheapest(c, c)
    if best is not None:
        return best[1]
    block = c & -c
    if block < SMALLEST_BLOCK:
        raise ValueError(
            f"no Hadamard rotation for {c} channels: no known factorization, and the largest power of "
            f"two that divides it, {block}, is below {SMALLEST_BLOCK}; leave these layers unrotated"
        )
    return factors(block)


def _cheapest(c: int, largest: int) -> tuple[int, tuple[int, ...]] | None:
    """Cost and orders, in falling order, none above `largest`."""
    if c == 1:
        return (0, ())
    found = []
    for a in range(2, min(c, largest, LARGEST) + 1):
        if c % a == 0 and recipe(a):
            rest = _cheapest(c // a, a)
            if rest is not None:
                found.append((a + STAGE + rest[0], (a, *rest[1])))
    return min(found, default=None)


def cost(c: int) -> int:
    """Multiply-adds per element of the rotation of c channels, without the signs."""
    return sum(factors(c))


@torch.compiler.assume_constant_result  # a graph holds the matrices, not how they are made
def _matrices(c: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """H / sqrt(n) of every factor of c."""
    return [_scaled(n, dtype, device) for n in factors(c)]


@lru_cache(maxsize=64)
def _scaled(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return matrix(n).to(device=device, dtype=torch.float64).div(math.sqrt(n)).to(dtype)


def hadamard(x: Tensor, signs: Tensor | None, inverse: bool) -> Tensor:
    """x[..., c] -> x diag(signs) H / sqrt(c), or its inverse; in x's dtype."""
    c = x.shape[-1]
    if signs is not None and not inverse:
        x = x * signs.to(x.dtype)
    y, inner = x.reshape(-1, c), 1
    for h in reversed(_matrices(c, x.dtype, x.device)):
        n, h = len(h), h.T if inverse else h
        # [m, .., n, inner] contracted along n: the innermost factor is a plain matrix product
        y = y.reshape(-1, n) @ h if inner == 1 else torch.matmul(h.T, y.reshape(-1, n, inner))
        inner *= n
    y = y.reshape(x.shape)
    return y * signs.to(x.dtype) if signs is not None and inverse else y
