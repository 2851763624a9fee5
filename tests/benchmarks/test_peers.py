"""The peers benchmark: its judgement, its table, and the results that are committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import peer_libraries, peers, peers_page
from quant.intervals import paired_difference

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "peers.json"
PEER = peer_libraries.PEERS[0]


def row(*decibels: float, site_bytes: int = 1000) -> dict[str, Any]:
    errors = [0.1] * len(decibels)
    return {"site_bytes": site_bytes, "psnr_db": list(decibels), "latent_rel_error": errors}


def judged(shift: float, site_bytes: int = 1000, n: int = 64) -> dict[str, Any]:
    """Ours against a peer that is `shift` dB lower, with some scatter."""
    theirs = [30 + (i % 7) * 0.5 for i in range(n)]
    mine = [v + shift + (i % 5 - 2) * 0.01 for i, v in enumerate(theirs)]
    return peers.compared(PEER, row(*theirs), row(*mine, site_bytes=site_bytes), "rtn", None)


@pytest.mark.parametrize(
    ("shift", "worse", "word"),
    [(1.0, False, "better"), (-0.2, False, "not worse"), (-0.4, True, "worse")],
)
def test_only_an_interval_wholly_below_the_bound_is_a_loss(
    shift: float, worse: bool, word: str
) -> None:
    verdict = judged(shift)
    assert verdict["worse"] is worse
    assert peers_page.verdict(verdict) == word


def test_bytes_and_few_seeds_are_said() -> None:
    assert "bytes differ" in peers_page.verdict(judged(1.0, site_bytes=1040))
    assert "bytes differ" not in peers_page.verdict(judged(1.0, site_bytes=1029))
    assert "too few seeds" in peers_page.verdict(judged(1.0, n=8))


def test_identical_pictures_do_not_break_a_row() -> None:
    same = peers.compared(
        PEER,
        row(30.0, 31.0) | {"psnr_db": [None, None]},
        row(0, 0) | {"psnr_db": [None, None]},
        "rtn",
        None,
    )
    assert same["psnr_db"] is None
    assert not same["worse"]
    json.dumps(same, allow_nan=False)


def test_bytes_count_what_is_saved() -> None:
    """A plain weight counts its bytes, int8 codes of a 4-bit peer half of them."""
    network = nn.Sequential(nn.Linear(8, 4))
    assert peer_libraries.peer_bytes(network, ["0"], 8) == 8 * 4 * 4
    network[0].weight = nn.Parameter(torch.zeros(4, 8, dtype=torch.int8), requires_grad=False)
    assert peer_libraries.peer_bytes(network, ["0"], 4) == 8 * 4 // 2


def test_a_peer_that_does_not_run_is_listed() -> None:
    text = peers_page.markdown(
        {
            **skeleton(),
            "rows": [
                {
                    "key": "x",
                    "library": "lib",
                    "title": "t",
                    "bits": "w8a8",
                    "error": "ImportError: no | such",
                    "ours": [],
                }
            ],
        }
    )
    assert "does not run: ImportError: no \\| such" in text


def skeleton() -> dict[str, Any]:
    return {
        "model": "m",
        "weights": "0",
        "sites": 1,
        "rest_bytes": 0,
        "seeds": [0, 1],
        "sampler": {"scheduler": "S", "steps": 2, "guidance": 1.0},
        "calibration_seeds": [5, 6],
        "not_worse_db": peers.NOT_WORSE_DB,
        "versions": {},
        "device": "d",
        "date": "today",
        "rows": [],
    }


def test_calibration_and_reported_seeds_do_not_meet() -> None:
    assert not set(peers.CALIBRATION_SEEDS) & set(range(64))


# -- what is committed


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == peers_page.markdown(
        committed
    )


def test_every_peer_is_in_the_results(committed: dict[str, Any]) -> None:
    assert [r["key"] for r in committed["rows"]] == [p.key for p in peer_libraries.PEERS]
    for found in committed["rows"]:
        assert found["error"] or [m["method"] for m in found["ours"]] == list(peers.OURS)


def test_ours_is_not_worse_at_equal_bytes(committed: dict[str, Any]) -> None:
    """Recomputed from the values per seed: the committed verdicts are not taken on trust."""
    assert len(committed["seeds"]) >= 64
    for found in committed["rows"]:
        for mine in found["ours"]:
            pair = paired_difference(mine["per_sample_db"], found["per_sample_db"])
            assert pair.diff is not None
            assert pair.diff.to_json() == mine["diff_db"]
            where = f"{mine['method']} beside {found['key']}"
            assert pair.diff.hi is not None
            assert pair.diff.hi >= committed["not_worse_db"], where
            rest = committed["rest_bytes"]
            ratio = (mine["site_bytes"] + rest) / (found["site_bytes"] + rest)
            assert abs(ratio - 1) <= peers.BYTES_AGREE, where
