"""Options of a method, checked, and what they ask for beside its layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cards import Card, load_method, methods
from .errors import unknown
from .folding import Fold
from .schema import Value
from .sharing_choice import SharingRequest


def parse_options(key: str, given: Mapping[str, Any]) -> Value:
    """The options of a method, checked; unknown names and bad values are one clear error."""
    card: Card = methods().get(key) or _no_method(key)
    kind = load_method(key).Options
    options = card.expanded(given)
    for name in options:
        if name not in kind.model_fields:
            raise unknown(
                f"option of {card.key}", name, kind.model_fields, f"List them: dqviz methods {key}"
            )
    return kind.parse(options, f"options of {key}")


def _no_method(key: str) -> Card:
    raise unknown("method", key, methods(), "List them: dqviz methods")


def sharing_asked(method: str, options: Mapping[str, Any]) -> SharingRequest | None:
    """The attention sharing that a method's options ask for; None where they ask for none."""
    asked = getattr(load_method(method), "sharing", None)
    return None if asked is None else asked(parse_options(method, options))


def unstreamed(method: str, options: Value) -> str:
    """Why a method cannot work with blocks on disk; nothing where it can."""
    if hasattr(load_method(method), "learner"):
        return f"{method} learns over the whole network, which must be in memory for that"
    if fold_asked(options) != "none":
        return f"fold={fold_asked(options)} changes weights of other layers, which must be in memory for that"
    return ""


def fold_asked(options: Value) -> Fold:
    """Where channel scales shall go, as a method's options say; "none" where they say nothing."""
    return getattr(options, "fold", "none")
