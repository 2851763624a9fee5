"""Which versions of which op run on this machine, and why the others do not."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from . import ops, tables
from .dispatch import Op, triton_obstacle


class OpHere(NamedTuple):
    """An op, the backends that can run it here, and one sentence that says why not the others."""

    name: str
    backends: tuple[str, ...]
    why: str


# What an op takes into its one pass, beside products of codes.
FUSED = {
    "adaln_quantize": "LayerNorm, modulation by adaLN, codes of q, k, v or fc1",
    "gelu_quantize": "GELU, codes of fc2",
    "int_linear": "gate and residual after an output projection or fc2, a low-rank branch with them",
    "fp8_linear": "gate and residual after an output projection or fc2",
    "int_attention": "codes of queries, both products of an attention and its softmax (--attention int8)",
}
RESIDENCY = {
    "speed": "weights as their product reads them: a byte each for integers, on a GPU half of one up to 4 bits, float32 beside the stored form for simulation",
    "memory": "weights as they are stored, expanded in every call, codebooks by tiles",
}


def here() -> list[OpHere]:
    """Every op, alphabetically. What an op cannot do with one input it says when it is called."""
    return [_of(import_module(f"kernels.{name}").OP) for name in ops()]


def _of(op: Op) -> OpHere:
    reasons = {backend: _obstacle(op.name, backend) for backend in op.versions}
    usable = tuple(backend for backend, reason in reasons.items() if reason is None)
    said = [f"{backend}: {reason}" for backend, reason in reasons.items() if reason]
    if "triton" not in op.versions:
        said.append("triton: not written")
    faster = [b for b in usable if b != "simulate"] if op.name in tables.COLUMNS else []
    damage = _damage(op.name) if faster else None
    if damage is not None:
        said.append(f"auto: stops, {damage}")
    elif faster:
        listed = " or ".join(faster)
        said.append(f"auto: {listed} where it was measured faster here, else simulate")
    else:
        said.append("auto: simulate, no other version was measured faster here")
    return OpHere(op.name, usable, "; ".join(said))


def _damage(op: str) -> str | None:
    """What is wrong with a table that the op is chosen by."""
    try:
        for paths in tables.devices(op).values():
            for path in paths:
                tables.read(path)
    except tables.BrokenTable as error:
        return str(error)
    return None


def _obstacle(op: str, backend: str) -> str | None:
    import torch

    from .quantize_rows.custom_op import float8_obstacle

    if backend == "triton":
        find = float8_obstacle if op == "fp8_linear" else triton_obstacle
        return find(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if backend == "integer":
        from .int_linear import cpu

        return None if cpu.available() else "this build of torch lacks oneDNN's integer linear"
    return None
