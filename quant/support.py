"""What works with what, told from cards alone: a method, bits, and whether an adapter knows the family.

Without torch, so that a form greys out at once what `quantize` would refuse; `quantize` refuses by the
same functions. `tests/quant/test_support.py` tries every cell of method x family x bits, and writes
`docs/results/support.json`.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .cards import Card
from .schema import Bits, Format, listed


def unfit(card: Card, weight: Format | None, activation: Format | None) -> str:
    """Why a method cannot make these formats of one layer; nothing where it can.

    Both are as asked for, before the method gives them granularities of its own.
    """
    for fmt in (weight, activation):
        if fmt is None or fmt.kind == "int":
            continue
        if card.integers:
            return f"rounds to integers alone, not {fmt.kind}"
        if card.codebooks and fmt.kind != "codebook":
            return f"makes codebooks in the place of integers alone, not {fmt.kind}"
    if weight is not None and weight.bits not in card.widths:
        return f"makes weights of {listed(card.widths)} bits, not {weight.bits}"
    return ""


def unsuited(card: Card) -> str:
    """Why a method cannot work on a transformer that has no adapter; nothing where it can."""
    if card.roles:
        return "tells layers apart by their roles, which are not known"
    if card.needs or card.trajectories:
        return "calibrates or learns on what it draws, and how to draw is not known"
    return ""


def unsupported(card: Card, bits: Bits, *, adapted: bool = True) -> str:
    """Why a method refuses bits for a whole model; nothing where it works.

    Args:
        card: of the method.
        bits: of weights and activations.
        adapted: whether the model's transformer has an adapter.
    """
    reason = "" if adapted else unsuited(card)
    return reason or unfit(card, *bits.formats())


@dataclass(frozen=True)
class Family:
    """What an adapter's source tells before anything of the family is loaded."""

    draws: str  # image or video
    steps: int | None  # of a card that names none; None: it depends on what the pipeline is
    guidance: float | None  # the same


@cache
def families() -> dict[str, Family]:
    """Families by the name of their diffusers class, read from the adapters' source."""
    folder = Path(__file__).parent / "adapters"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))]
    said = {n.name: _said(n) for tree in trees for n in tree.body if isinstance(n, ast.ClassDef)}
    found = {}
    for own in said.values():
        if "transformer_class" in own:
            every = said["Adapter"] | own
            defaults = {} if "card_defaults" in own else every["defaults"]
            found[every["transformer_class"]] = Family(
                every["draws"], defaults.get("steps"), defaults.get("guidance")
            )
    return found


def adapted_classes() -> frozenset[str]:
    """Names of the diffusers classes that have an adapter."""
    return frozenset(families())


def _said(node: ast.ClassDef) -> dict[str, Any]:
    """Class attributes that are literals; methods by their name alone."""
    found: dict[str, Any] = {}
    for line in node.body:
        if isinstance(line, ast.FunctionDef):
            found[line.name] = None
        elif isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            with suppress(ValueError):
                found[ast.unparse(target)] = ast.literal_eval(line.value)
    return found
