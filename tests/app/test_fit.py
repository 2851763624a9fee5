"""The card that says before the start whether a comparison fits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from dqviz import preflight
from dqviz.pages.fit import card, refused
from dqviz.request import CompareRequest
from dqviz.ui.fit import ask

FOUND = {
    "memory_bytes": 3 * 2**30,
    "free_memory_bytes": 2 * 2**30,
    "free_disk_bytes": 2**30,
    "seconds": 90.0,
    "fits": False,
    "size": None,
    "refusal": "<b>model</b> needs about 3.0 GiB of memory and 2.0 GiB are free",
}


def test_the_card_has_the_numbers_and_what_would_fit() -> None:
    shown = card(FOUND)
    assert dict(shown["rows"])["Memory"] == "at most 3.0 GiB, 2.0 GiB are free"
    assert dict(shown["rows"])["Time"] == "about 1 min 30 s"
    assert (shown["state"], shown["verdict"]) == ("refused", FOUND["refusal"])
    assert shown["note"].startswith("predicted")
    fits = card({**FOUND, "fits": True, "seconds": None, "untimed": "told when it starts"})
    assert dict(fits["rows"])["Time"] == "told when it starts"
    assert (fits["state"], fits["verdict"]) == ("fits", "It fits")
    assert "Size" not in dict(fits["rows"]), "the model's own"
    sized = card({**FOUND, "size": [480, 720]})
    assert dict(sized["rows"])["Size"] == "480 pixels high, 720 wide"
    assert refused("<i>")["verdict"] == "<i>"


def test_it_is_told_by_a_process_of_its_own(tiny_dit: Path) -> None:
    request = {"model": str(tiny_dit), "methods": ["rtn"], "bits": "w4a8", "steps": 2}
    found = ask(CompareRequest.parse(request))
    assert found["work"] == "compare"
    assert found["fits"]


def test_what_is_asked_wrongly_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = {"model": "/nowhere/at/all", "methods": ["rtn"], "bits": "w4a8"}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
    assert preflight.main() == 0
    assert "there is no such" in json.loads(capsys.readouterr().out)["error"]
