"""That the promises of methods can be broken: a method in a file of its own, with one fault each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quant.cards import load_method, methods
from quant.conformance import promises
from quant.conformance.check import check_method
from quant.conformance.method_files import file_method
from quant.conformance.promises import PROMISES, Subject
from quant.errors import BadInput

METHOD = '''"""Halves, for tests.

Shapes: W [o, i].

    Y = Q(X) . Q(W)^T

As in arXiv 2406.02540.
"""

from quant.cards import Card, Option
from quant.methods.base import transformed_and_rounded
from quant.schema import Value
from quant.site_tensors import Transform

CARD = Card(
    key="mine",
    title="Mine",
    paper="https://arxiv.org/abs/2406.02540",
    bits=("w8a8",),
    widths=(4, 8),
    options=(Option("share", 0.5, "of nothing"),),
)


class Options(Value):
    share: float = 0.5


def stored_transform(options):
    return Transform()


def quantize_group(group, seen, options, seed):
    return [transformed_and_rounded(site, None, None, {}) for site in group.sites]
'''
SITES = "for site in group.sites]"
DOUBLED = "for site in (replace(s, weight=2 * s.weight) for s in group.sites)]"


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The method's file, changed."""
    text = METHOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = folder / "my_method.py"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def broken(tmp_path, model, seen, reference):
    """The faults of one promise of a changed method."""

    def faults(promise, *changes):
        with file_method(written(tmp_path, *changes)) as key:
            return PROMISES[promise](Subject(key, model, seen, reference))

    return faults


@pytest.mark.parametrize("promise", PROMISES)
def test_a_method_in_a_file_of_its_own_keeps_them(promise, broken):
    assert broken(promise) == []


@pytest.mark.parametrize(
    ("promise", "old", "new", "said"),
    [
        ("docstring", "arXiv 2406.02540", "a paper", "no link to the paper"),
        ("docstring", "Shapes:", "Sizes:", "no 'Shapes:'"),
        ("docstring", "    Y = Q(X) . Q(W)^T", "Y is what comes out.", "no equation"),
        ("options", "share: float = 0.5", "share: float = 0.4", "'share' is 0.4 by default"),
        ("options", "share: float = 0.5", "shared: float = 0.5", "no field 'share'"),
        ("function", SITES, DOUBLED, "site0 of a synthetic input is off by"),
        ("baseline", "widths=(4, 8),", 'widths=(4, 8), beats="rtn", beats_at=("w4a8",),', "w4a8"),
        (
            "card",
            "class Options(Value):",
            "CARD = Card(**{**vars(CARD), 'title': 'Other'})\n\n\nclass Options(Value):",
            "the module's differs",
        ),
        ("card", 'key="mine"', 'key="My method"', "key 'My method' is not of small letters"),
        ("card", 'bits=("w8a8",)', 'bits=("w8a8")', "bits are 'w8a8', not a tuple"),
        ("card", 'bits=("w8a8",)', 'bits=("w8a8", "w99a8")', "w99a8"),
        ("transform", "return Transform()", "return Transform(requantized=True)", "requantized"),
        ("size", "return Transform()", "return Transform(rank=64)", "bytes predicted"),
    ],
)
def test_each_can_be_broken(promise, old, new, said, broken):
    changes = [(old, new)]
    if new == DOUBLED:
        changes.append(("from quant.cards", "from dataclasses import replace\n\nfrom quant.cards"))
    faults = broken(promise, *changes)
    assert any(said in fault for fault in faults)


def test_more_bits_that_hurt_are_told(broken):
    noisy = "for site in (replace(s, weight=s.weight * 2) if s.plan.weight.bits > 4 else s for s in group.sites)]"
    imported = ("from quant.cards", "from dataclasses import replace\n\nfrom quant.cards")
    (fault,) = broken("more bits", (SITES, noisy), imported)
    assert fault.startswith("error ")
    assert "at w8a8" in fault


def test_a_checkpoint_that_loads_as_another_network_is_told(broken, model, monkeypatch):
    monkeypatch.setattr(promises, "_loaded", lambda *_: model.transformer)
    assert "differs at step 0" in broken("checkpoint")[0]


def test_pictures_that_are_not_finite_are_told(broken):
    endless = "for site in (replace(s, weight=s.weight * float('nan')) for s in group.sites)]"
    imported = ("from quant.cards", "from dataclasses import replace\n\nfrom quant.cards")
    assert broken("presets", (SITES, endless), imported) == ["w8a8: latents hold NaN or infinity"]


def test_what_a_method_raises_is_a_broken_promise_and_the_others_are_looked_at(tmp_path, model):
    told = []
    raising = ("return [transformed", "raise KeyError('rows')\n    return [transformed")
    with file_method(written(tmp_path, raising)) as key:
        found = check_method(key, model, lambda name, text: told.append(name))
    assert told == [verdict.promise for verdict in found] == list(PROMISES)
    faults = {verdict.promise: verdict.faults for verdict in found}
    assert faults["docstring"] == faults["card"] == faults["options"] == ()
    assert faults["presets"] == faults["function"] == ("KeyError: 'rows'",)
    assert all(verdict.text.endswith(".") for verdict in found)


def test_a_method_that_ends_the_process_breaks_its_promises(tmp_path, model):
    leaving = ("return [transformed", "raise SystemExit(0)\n    return [transformed")
    with file_method(written(tmp_path, leaving)) as key:
        faults = {verdict.promise: verdict.faults for verdict in check_method(key, model)}
    assert faults["presets"] == ("SystemExit: 0",)


def test_a_file_is_a_method_for_as_long_as_it_is_looked_at(tmp_path):
    before = dict(methods()), list(sys.path)
    with file_method(written(tmp_path)) as key:
        assert key == "mine"
        assert methods()[key] == load_method(key).CARD
    assert (dict(methods()), list(sys.path)) == before
    assert "my_method" not in sys.modules


def test_a_file_of_ours_is_the_method_that_it_is():
    with file_method(
        Path(sys.modules["quant.cards"].__file__).parent / "methods" / "rtn.py"
    ) as key:
        assert key == "rtn"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('key="mine"', 'key="rtn"', "'rtn' is that of a method that is here"),
        ("CARD = Card(", "MADE = Card(", "no line CARD"),
        ('bits=("w8a8",)', "bits=tuple(BITS)", "not made of literal arguments"),
        ("class Options(Value):", "class Options(Value)", "not Python"),
        ("from quant.schema", "from quant.scheme", "cannot be imported: ModuleNotFoundError"),
        ("def quantize_group", "def quantise_group", "lacks quantize_group"),
        (
            "class Options",
            "raise SystemExit(0)\n\n\nclass Options",
            "cannot be imported: SystemExit",
        ),
    ],
)
def test_what_is_no_method_is_one_line(old, new, said, tmp_path):
    with pytest.raises(BadInput, match=said), file_method(written(tmp_path, (old, new))):
        pass
    assert "mine" not in methods()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json.py", "'json' is the name of an installed module"),
        ("my-method.py", "'my-method' is no module's name"),
    ],
)
def test_a_name_that_cannot_be_imported_is_one_line(name, said, tmp_path):
    file = written(tmp_path).rename(tmp_path / name)
    with pytest.raises(BadInput, match=said), file_method(file):
        pass


def test_a_file_in_the_current_folder_is_one_like_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    with file_method(written(tmp_path)) as key:
        assert key in methods()


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="there is no file"), file_method(tmp_path / "none.py"):
        pass


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    file = tmp_path / "my_method.py"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not Python"), file_method(file):
        pass
