"""`dqviz check-method`: rows, JSON, exit codes; what is looked at is `tests/quant/test_conformance.py`'s."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dqviz.cli import main
from dqviz.method_check import check_method
from quant.cards import methods
from quant.conformance.promises import PROMISES
from quant.errors import Cancelled
from tests.quant.test_conformance import written


def test_a_method_that_keeps_its_promises(
    tiny_dit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", "rtn", "--model", str(tiny_dit)]) == 0
    printed = capsys.readouterr()
    rows = printed.out.splitlines()[-len(PROMISES) :]
    assert [row.split()[0] for row in rows] == ["ok"] * len(PROMISES)
    assert printed.err == ""


def test_a_file_that_breaks_one_exits_with_four_and_says_which(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, ("share: float = 0.5", "share: float = 0.4"))
    assert main(["check-method", str(file), "--model", str(tiny_dit), "--json"]) == 4
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["method"], found["passed"]) == ("mine", False)
    broken = {p["promise"]: p["faults"] for p in found["promises"] if not p["passed"]}
    assert list(broken) == ["options"]
    assert "dqviz: mine: options: 'share' is 0.4 by default, the card says 0.5" in printed.err
    assert "mine" not in methods()


def test_what_a_method_prints_is_not_in_the_json(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, ("return [transformed", "print('at work')\n    return [transformed"))
    assert main(["check-method", str(file), "--model", str(tiny_dit), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["passed"]
    assert "at work" in printed.err


@pytest.mark.parametrize(
    ("name", "said"),
    [("rtm", "nearest: rtn"), ("none.py", "there is no file"), ("", "unknown method")],
)
def test_what_is_no_method_is_bad_input(
    name: str, said: str, tiny_dit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-method", name, "--model", str(tiny_dit)]) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-method", "rtn", "--model", "dit-emojy"]) == 2
    assert "dit-emojy" in capsys.readouterr().err


def test_it_can_be_stopped_between_two_promises(tiny_dit: Path) -> None:
    with pytest.raises(Cancelled, match="before 'docstring'"):
        check_method("rtn", str(tiny_dit), cancelled=lambda: True)
