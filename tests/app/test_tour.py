"""The tour as a function of a result: what stands on the slider, and sentences that only count."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqviz.pages import tour
from dqviz.study import NewRun, Study
from dqviz.study_folder import studies_root
from quant.errors import BadInput

Result = dict[str, Any]
RUNG = {"rung": "twice_the_steps", "title": "twice the steps", "psnr_db": {"mean": 40.0}}


def run(name: str, size: int, error: float, db: list[float | None], **more: Any) -> dict[str, Any]:
    known = [v for v in db if v is not None]
    psnr = {"mean": sum(known) / len(known) if known else None, "per_sample": db}
    psnr["identical"] = not known
    bits = name.partition("-")[2]
    return {
        "name": name, "method": name.partition("-")[0], "bits": bits, "size_bytes": size, "psnr_db": psnr,
        "latent_rel_error": {"mean": error}, "evidence": "recorded", "class_accuracy": 0.5, **more,
    }  # fmt: skip


FULL = {
    "name": "full-precision", "method": "full-precision", "bits": None, "size_bytes": 100, "psnr_db": None,
    "latent_rel_error": None, "evidence": "recorded", "class_accuracy": 0.75, "device": "CPU",
}  # fmt: skip
EIGHT = run("viditq-w8a8", 75, 0.01, [50.0, 45.0, 41.0, 39.0])
FOUR = run("viditq-w4a8", 50, 0.1, [30.0, 31.0, 32.0, 33.0])
RTN = run("rtn-w4a8", 49, 0.2, [20.0, 21.0, 22.0, 23.0])


def result(*runs: dict[str, Any], **more: Any) -> Result:
    return {
        "model": {"key": "m", "title": "A model", "classes": {"0": "cat"}},
        "fingerprint": "0123abcd",
        "created": "2026-01-02T03:04:05Z",
        "runs": [FULL, *runs],
        "ladder": [RUNG],
        "samples": [{"seed": s, "class_id": 0} for s in range(4)],
        **more,
    }


def shown(*runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    pictures = {r["name"]: [f"data:{r['name']}"] * 4 for r in (FULL, *runs)}
    return tour.render(result(*runs), pictures, **more).section("tour")


def test_the_slider_leads_from_large_to_small_over_the_best_of_each_size() -> None:
    section = shown(FOUR, EIGHT, RTN)
    stops = [(s["label"], s["share"], s["saved"]) for s in section["stops"]]
    assert stops == [
        ("Original", "100 %", ""),
        ("8-bit", "75 %", "0.0 MB"),
        ("4-bit", "50 %", "0.0 MB"),
    ]
    assert "RTN W4A8" in section["notes"][1], "what is left out is said"


def test_runs_of_one_size_that_neither_wins_both_stay_and_are_told_apart() -> None:
    closer_in_pictures = run("rtn-w4a8", 50, 0.2, [40.0] * 4)
    labels = [s["label"] for s in shown(FOUR, closer_in_pictures)["stops"]]
    assert labels[0] == "Original"
    assert set(labels[1:]) == {"ViDiT-Q W4A8", "RTN W4A8"}


RUNS = st.lists(
    st.tuples(
        st.integers(1, 200), st.floats(0.001, 2), st.lists(st.floats(1, 90), min_size=4, max_size=4)
    ),
    max_size=8,
)


@given(RUNS)
def test_nothing_on_the_slider_is_beaten_and_all_that_is_not_is_on_it(
    drawn: list[tuple[int, float, list[float]]],
) -> None:
    runs = [FULL, *(run(f"r{i}-w4a8", s, e, list(db)) for i, (s, e, db) in enumerate(drawn))]
    placed = tour.stops(runs)
    assert placed[0] is FULL
    sizes = [r["size_bytes"] for r in placed[1:]]
    assert sizes == sorted(sizes, reverse=True)

    def beaten(r: dict[str, Any]) -> bool:
        return r["size_bytes"] * tour.SAME_SIZE >= 100 or any(
            other["size_bytes"] <= tour.SAME_SIZE * r["size_bytes"]
            and other["latent_rel_error"]["mean"] < r["latent_rel_error"]["mean"]
            and other["psnr_db"]["mean"] > r["psnr_db"]["mean"]
            for other in runs[1:]
        )

    for r in runs[1:]:
        assert (r in placed) is not beaten(r)


@given(st.lists(st.one_of(st.none(), st.floats(1, 90)), min_size=1, max_size=30))
def test_the_sentence_counts_the_pictures_within_the_yardstick(db: list[float | None]) -> None:
    near = sum(v is None or v >= 40 for v in db)
    text = tour.sentence(run("m-w4a8", 50, 0.1, db), FULL, tour.yardstick([RUNG]))
    assert text.startswith("Half of the memory; ")
    if 0 < near < len(db):
        assert f"in {near} of {len(db)} pictures you would have to look twice" in text
    elif near:
        assert f"{len(db)} pictures you would have to look twice" in text
    else:
        assert "look twice" not in text
        assert f"every one of the {len(db)} pictures has changed" in text


@given(st.floats(0.01, 1.5))
def test_a_fraction_is_named_only_where_it_is_one(share: float) -> None:
    words = tour.share_in_words(share)
    if words.endswith("%"):
        assert float(words.removesuffix(" %")) == pytest.approx(100 * share, abs=0.5001)
    else:
        value = next(v for v, name in tour.FRACTIONS.items() if name == words)
        assert math.isclose(value, share, abs_tol=0.015001)


def test_another_picture_is_called_one() -> None:
    other = {"rung": "another_seed", "psnr_db": {"mean": 22.0}}
    known = tour.yardstick([RUNG, other])
    assert "the pictures are others" in tour.sentence(RTN, FULL, known)  # 21.5 dB
    assert "the pictures are others" not in tour.sentence(FOUR, FULL, known)
    assert "the pictures are others" not in tour.sentence(RTN, FULL, tour.yardstick([RUNG]))


def test_nothing_is_said_that_was_not_measured() -> None:
    bare = {**EIGHT, "class_accuracy": None}
    section = tour.render({**result(bare), "ladder": []}, {}).section("tour")
    assert section["stops"][1]["sentence"] == "Three quarters of the memory."
    assert section["stops"][1]["recognised"] == ""
    assert section["notes"] == []


def test_the_classifier_is_quoted_in_pictures() -> None:
    assert tour.recognised(EIGHT, FULL) == (
        "a classifier recognises 2 of them, and 3 of the original's"
    )
    assert "as many of them as before, 2 of 4" in tour.recognised(
        EIGHT, {**FULL, "class_accuracy": 0.5}
    )


def test_recorded_runs_are_called_so_with_device_and_date() -> None:
    section = shown(EIGHT, recorded=True)
    assert section["badges"][0]["text"] == "recorded"
    assert section["origin"] == "A model, 4 pictures, recorded on CPU, 2026-01-02"
    assert "drawn on CPU" in shown(EIGHT)["origin"]
    simulated = {**EIGHT, "evidence": "simulated"}
    assert shown(simulated)["badges"][0]["text"] == "simulated"


@pytest.mark.parametrize(
    ("bits", "label"),
    [("w8a8", "8-bit"), ("w4a16", "4-bit"), ("fp8", "FP8"), (None, "Mixed")],
)
def test_plain_words_for_bits(bits: str | None, label: str) -> None:
    assert tour.plain_bits({"bits": bits, "method": "rtn"}) == label


def test_a_comparison_that_saves_nothing_is_no_tour() -> None:
    with pytest.raises(BadInput, match="smaller than full precision"):
        tour.render(result({**EIGHT, "size_bytes": 100}), {})


def test_names_are_plain_values() -> None:
    nasty = "<img src=x onerror=alert(1)>"
    evil = {**result(EIGHT), "model": {"key": nasty, "title": nasty, "classes": {"0": nasty}}}
    view = tour.render(evil, {})
    json.loads(view.to_json(), parse_constant=pytest.fail)
    assert view.section("tour")["samples"][0]["label"] == nasty


# -- which study it opens


def store(folder: Path, created: str = "x") -> Study:
    """A study with one comparison of runs as above."""
    study = Study.create(folder, {"key": "m", "title": created, "fingerprint": "0"}, {})
    number = study.begin({"model": "m"}, {})
    recipe = {"samples": [{"seed": s, "class_id": 0} for s in range(4)]}
    for record in (FULL, EIGHT, FOUR):
        images = np.zeros((4, 8, 8, 3), np.uint8)
        record = {"scope": {"quantized": [], "kept": {}}, "backend": "simulate", **record}
        study.add_run(number, NewRun(record["name"], record, recipe, range(4), images))
    study.finish(number, "done", ladder=[RUNG])
    return study


def test_the_study_that_is_named_else_a_recorded_one_else_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dqviz import studies, study_folder
    from dqviz.ui.library import Library
    from dqviz.ui.tour import opened

    for module in (study_folder, studies):
        monkeypatch.setattr(module, "RECORDED", tmp_path / "recorded")
    assert opened(Library(), None)[0].sections[0]["kind"] == "empty"
    assert "unknown study" in opened(Library(), "nowhere")[1]

    store(studies_root() / "mine", "mine")
    assert opened(Library(), None)[0].section("tour")["origin"].startswith("mine")
    store(tmp_path / "came-along", "recorded one")
    (tmp_path / "recorded").mkdir()
    (tmp_path / "came-along").rename(tmp_path / "recorded" / "came-along")
    view, message = opened(Library(), None)
    assert (message, view.address) == ("", None)
    assert view.section("tour")["origin"].startswith("recorded one")
    assert view.section("tour")["badges"][0]["text"] == "recorded"
    assert [len(s["images"]) for s in view.section("tour")["stops"]] == [4, 4, 4]
    view, _ = opened(Library(pinned=studies_root() / "mine"), None)
    assert view.section("tour")["origin"].startswith("mine"), "named at the start"
    view, _ = opened(Library(), "mine")
    assert view.address == "mine"
    assert view.section("tour")["origin"].startswith("mine")
