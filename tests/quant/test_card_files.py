"""Files join by their card: read, not imported."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from quant.card_files import CardFiles
from quant.errors import BadInput, DQVizError


@dataclass(frozen=True)
class Knob:
    """A part of a card."""

    name: str
    default: object = None


@dataclass(frozen=True)
class Thing:
    """A card."""

    key: str
    knobs: tuple[Knob, ...] = ()


def files(folder, **sources: str) -> CardFiles[Thing]:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    return CardFiles("nowhere", folder, Thing, "thing", {"Knob": Knob})


def test_cards_are_read_in_the_order_of_their_files_and_nothing_is_run(tmp_path):
    found = files(
        tmp_path,
        b="CARD = Thing(key='first', knobs=(Knob('n', default=-1), Knob('m')))\n1 / 0",
        c="CARD = Thing(key='second')",
        d="CARD = Other(key='not of this kind')",
        e="NOTHING = 1",
    )
    first = Thing("first", (Knob("n", -1), Knob("m")))
    assert list(found.cards.items()) == [("first", first), ("second", Thing("second"))]


def test_two_files_with_one_key_are_an_error_that_names_the_second(tmp_path):
    found = files(tmp_path, a="CARD = Thing(key='one')", b="CARD = Thing(key='one')")
    with pytest.raises(DQVizError, match=r"two things are called 'one'; the second is in b\.py"):
        _ = found.cards


def test_an_unknown_key_is_told_with_the_nearest(tmp_path):
    with pytest.raises(BadInput, match="unknown thing 'tow'; nearest: two"):
        files(tmp_path, a="CARD = Thing(key='two')").load("tow")
