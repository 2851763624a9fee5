"""The Methods page without a browser: what its views say of probes and captures, and what its server answers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dqviz.jobs import QUEUED
from dqviz.pages import methods as page
from dqviz.pages.methods import alpha, incoherence, rotation
from dqviz.pages.methods.opened import Opened, Probed
from dqviz.studies import writable
from dqviz.study import Study
from dqviz.study_folder import studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.desk import Desk
from dqviz.ui.form import Form
from dqviz.ui.methods import Methods, server_functions
from quant.alphas import alpha_of, check_names
from quant.errors import BadInput
from quant.method_options import parse_options
from quant.methods.base import Group, SiteWeight
from quant.schema import Format, SitePlan
from tests import probes
from tests.captures import write_capture

NAMES = [e["name"] for e in probes.alpha()["inputs"]]
ATTENTION, FC2 = NAMES[0], NAMES[1]


class Nobody:
    """Takes no job."""

    def ensure(self, store: Any) -> None:
        pass


def bench() -> Bench:
    made = Bench()
    made.desk = Desk(made.store, Nobody())
    return made


def opened(method: str = "viditq", options: dict[str, Any] | None = None, **data: Any) -> Opened:
    record = {"evidence": "simulated", "samples": 2, "steps": 8}
    held = {k: Probed(f"p-{k}", d, record, {"method_options": options or {}}) for k, d in data.items()}  # fmt: skip
    return Opened(
        "mine", "A model", "dit-emoji", method, "w4a8", probes=held, options=options or {}
    )


def section(found: Opened, key: str, **query: Any) -> dict[str, Any]:
    keys = page.controls(found)["keys"]
    chosen, _ = page.select(query, found, keys)
    (drawn,) = page.sections(found, chosen, [key])
    json.dumps(drawn, allow_nan=False)
    return drawn


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# -- alpha


def group(name: str) -> Group:
    plan = SitePlan(weight=Format(bits=4), activations=(Format(bits=8),))
    return Group(name, (SiteWeight(f"{name}.to_q", torch.eye(2), None, plan),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*:0.4",
        f"*:0.4;{ATTENTION}:0.7",
        f"transformer_blocks.*.attn1:0.2;{ATTENTION}:0.7;*:0.1",
        "transformer_blocks.*.ff.net.2:0.9",
    ],
)
@pytest.mark.parametrize("method", ["viditq", "trdq"])
def test_what_is_set_on_the_page_is_what_the_method_does(text: str, method: str) -> None:
    """The option that comes out means for every input what the page says of it."""
    settings, problems = alpha.read(text, NAMES, probes.alpha()["alphas"])
    assert problems == []
    options = parse_options(method, alpha.options_of(settings))
    groups = [group(name) for name in NAMES]
    check_names(options.alpha, [each.names for each in groups])
    for name, each in zip(NAMES, groups):
        assert alpha_of(options.alpha, each) == (alpha.value_of(settings, name) or "search")


def test_a_kind_has_a_pattern_of_its_own_inputs() -> None:
    scopes = section(opened(alpha=probes.alpha()), "alpha", site=FC2)["scopes"]
    assert [s["name"] for s in scopes] == [FC2, "transformer_blocks.*.ff.net.2", "*"]
    assert scopes[1]["covers"] == [n for n in NAMES if n.endswith("ff.net.2")]
    kinds = {"a.0.x": "fc2", "a.1.x": "fc2", "a.2.x": "fc1"}
    assert alpha.pattern_of("a.0.x", "fc2", kinds) is None, "it would fit another kind, too"


def test_links_that_name_nothing_are_said_and_left_out() -> None:
    found = section(opened(alpha=probes.alpha()), "alpha", alphas="*.fc9:0.4;*:7;nonsense;*:0.3")
    assert [s["alpha"] for s in found["settings"]] == [0.3]
    assert sum("cannot be had" in w for w in found["words"]) == 3
    _, notes = page.select({"site": "elsewhere", "window": 9}, opened(alpha=probes.alpha()), ())
    assert len(notes) == 2


def test_the_curve_has_both_curves_their_parts_and_the_levels() -> None:
    drawn = section(opened(alpha=probes.alpha()), "alpha", site=ATTENTION)
    lines = {t["name"]: t for t in drawn["curve"]["figure"]["data"]}
    assert {"scale + Hadamard", "scale alone", "plain", "Hadamard alone"} <= set(lines)
    both = probes.alpha()["inputs"][0]["windows"][0]["both"]["error"]
    assert np.allclose(lines["scale + Hadamard"]["y"], 100 * np.sqrt(both))
    assert lines["scale + Hadamard: least"]["x"] == [0.5]
    assert "scale alone: weight alone" in lines
    plain = section(opened(alpha=probes.alpha()), "alpha", split="off")["curve"]["figure"]["data"]
    assert not any("weight alone" in t["name"] for t in plain)
    assert drawn["badges"][0]["text"] == "simulated"


def test_the_map_is_one_at_the_least_of_every_row() -> None:
    drawn = section(opened(alpha=probes.alpha()), "alpha")
    dots = drawn["map"]["figure"]["data"][-1]
    assert dots["x"] == ["0.5", "0.5", "0.6", "0.6"], "blocks differ by 0.1"
    assert drawn["rows"] == NAMES
    shown = section(opened(alpha=probes.alpha()), "alpha", curve="scale")
    assert set(shown["map"]["figure"]["data"][-1]["x"]) == {"0.2"}


def test_setting_alpha_says_what_it_costs() -> None:
    found = opened(alpha=probes.alpha(), options={"transform": "both"})
    searched = section(found, "alpha")["words"][-1]
    worse = section(found, "alpha", alphas="*:1")["words"][-1]
    assert "searched for each" in searched
    # mean of 1 + (1 - best)^2 over both blocks, weighted by their level, against 1
    level = [1, 1, 2, 2]
    costs = [1 + (1 - best) ** 2 for best in (0.5, 0.5, 0.6, 0.6)]
    more = 100 * (np.sqrt(np.dot(level, costs) / np.sum(level)) - 1)
    assert f"{more:.1f} % more" in worse
    # What leaves scale and rotation alone open can fall back to them.
    free = opened(alpha=probes.alpha(), options={"transform": "choose"})
    assert "more" in section(free, "alpha", alphas="*:1")["words"][-1]
    capped = rows(section(free, "alpha", alphas="*:1")["table"]["csv"])
    assert {r["way"] for r in capped} == {"plain", "rotate", "scale", "both"}


def test_windows_are_chosen_together() -> None:
    found = opened("trdq", alpha=probes.alpha(count=2, rotation="blocks"), rotation=probes.rotation())  # fmt: skip
    assert [w.label for w in found.windows] == ["steps 0 to 3", "steps 4 to 7"]
    drawn = section(found, "alpha", window=1)
    assert "steps 4 to 7" in drawn["curve"]["title"]
    assert "scale + greedy blocks" in {t["name"] for t in drawn["curve"]["figure"]["data"]}


# -- rotation


def test_the_rotation_view_shows_what_was_kept() -> None:
    found = opened("trdq", rotation=probes.rotation())
    drawn = section(found, "rotation", site=FC2, window=1)
    peaks = drawn["peaks"]["figure"]["data"]
    assert peaks[1]["x"] == [2]
    assert peaks[1]["y"] == [5.0]
    assert peaks[3]["y"] == [4.0]
    assert peaks[2]["x"][0] > peaks[0]["x"][-1], "the second search stands after the first"
    assert [t["y"] for t in drawn["blocks"]["figure"]["data"]] == [[1.0, 2.0, 3.0], [2.0] * 3]
    assert "after" in drawn["blocks"]["lede"]
    assert (drawn["row"], drawn["window"]) == (1, 1)


def test_greedy_beside_hadamard_counts_every_input_and_window() -> None:
    drawn = section(opened("trdq", rotation=probes.rotation()), "rotation")
    said = " ".join(drawn["words"])
    assert "Of 8 inputs and windows greedy leaves less error than Hadamard in 4, more in 4" in said
    assert "64 multiply-adds per element on average, Hadamard 20" in said
    assert drawn["ways"]["rows"][3]["cells"][0]["sub"] == "least error"
    odd = section(opened("trdq", rotation=probes.rotation()), "rotation", window=1)
    assert odd["ways"]["rows"][4]["cells"][0]["sub"] == "least error"


def test_a_search_that_found_nothing_is_named() -> None:
    data = probes.rotation()
    assert "no factor" not in " ".join(section(opened("trdq", rotation=data), "rotation")["words"])
    data["inputs"][1]["windows"][0]["kept"] = [0, 0]
    said = " ".join(section(opened("trdq", rotation=data), "rotation")["words"])
    assert "In 1 of 8 the search found no factor" in said
    assert "block 0 · fc2" in said


def test_one_block_has_nothing_to_deal_out() -> None:
    data = probes.rotation(count=1)
    for entry in data["inputs"]:
        entry["windows"][0]["block_absmax"] = {"before": [1.0], "after": [1.0]}
    drawn = section(opened("trdq", rotation=data), "rotation")
    assert "nothing to deal out" in drawn["blocks"]["lede"]
    assert rotation.spread([1.0, 1.0]) == 0


# -- incoherence


@pytest.mark.parametrize(("width", "about"), [(1152, 4.3), (4608, 4.8), (256, 3.8)])
def test_the_floor_is_that_of_a_gaussian_row(width: int, about: float) -> None:
    drawn = np.abs(np.random.default_rng(0).standard_normal((400, width)))
    measured = float((drawn.max(1) / drawn.mean(1)).mean())
    assert incoherence.gaussian_floor(width) == pytest.approx(measured, rel=0.02)
    assert incoherence.gaussian_floor(width) == pytest.approx(about, rel=0.04)


def test_incoherence_is_the_mean_over_rows_as_the_engine_has_it(tmp_path: Path) -> None:
    from dqviz.seen_file import SeenFile
    from quant.balancing import CHANGING, INCOHERENT, _per_step
    from quant.transforms import incoherence as psi_of

    seen = SeenFile(write_capture(tmp_path / "c.safetensors", stages=("input", "scaled")))
    found = incoherence.of_rows(seen.path, "input")
    for entry, line in zip(seen.inputs, found):
        values, steps, _ = seen.rows(entry.name, "input")
        psi, at = psi_of(torch.tensor(values)), torch.tensor(steps).long()
        mean = _per_step(psi, at) / _per_step(torch.ones_like(psi), at)
        assert np.allclose(line[np.isfinite(line)], mean.numpy(), rtol=1e-5)
    assert np.isnan(incoherence.of_rows(seen.path, "scaled")[0]).all(), "it lacks that stage"
    assert (incoherence.PSI, incoherence.CHANGE) == (INCOHERENT, CHANGING)


def captured(folder: Path, stages: tuple[str, ...] = ("input", "scaled", "rotated")) -> Study:
    model = {"key": "dit-emoji", "ref": "dit-emoji", "title": "A model", "fingerprint": "f", "weights": "w"}  # fmt: skip
    study = Study.create(folder, model, {"dqviz": "0"})
    file = write_capture(folder / "new.safetensors", stages=stages)
    study.add_capture("viditq-w4a8", file, {}, method="viditq", bits="w4a8", record={"method": "viditq", "samples": 2})  # fmt: skip
    return study


def test_incoherence_shows_every_stage_and_both_limits() -> None:
    captured(studies_root() / "mine")
    answer = Methods(bench()).answer({"study": "mine", "psi": "9", "change": "nonsense"})
    (drawn,) = answer["sections"]
    assert drawn["thresholds"] == {"psi": 9.0, "change": 1.5}
    assert drawn["settable"], "ViDiT-Q takes them as options"
    titles = [a["text"] for a in drawn["figure"]["layout"]["annotations"]]
    assert titles == ["<b>before transforms</b>", "<b>after: scaled</b>", "<b>after: rotated</b>"]
    lines = [t for t in drawn["figure"]["data"] if t["meta"] != "floor"]
    assert len(lines) == 3 * len(drawn["inputs"])
    assert all(e["psi"] >= 1 and e["change"] >= 1 for e in drawn["inputs"])
    assert not drawn["without_stages"]
    trdq = Methods(bench()).answer({"study": "mine", "method": "trdq"})
    assert not trdq["sections"][0]["settable"]


def test_without_a_capture_the_page_says_so_and_offers_one() -> None:
    probes.study_with_probes(studies_root() / "mine", method="viditq", alpha=probes.alpha())
    answer = Methods(bench()).answer({"study": "mine"})
    assert [s["key"] for s in answer["sections"]] == ["incoherence", "alpha"]
    assert "no capture" in answer["sections"][0]["empty"]
    assert answer["missing"]["capture"].startswith("dqviz capture dit-emoji --method viditq --bits w4a8")  # fmt: skip


# -- the server's answers


def test_the_page_opens_the_study_that_has_probes_and_lists_what_is_missing() -> None:
    captured(studies_root() / "first")
    probes.study_with_probes(studies_root() / "second", alpha=probes.alpha(count=2), method="trdq")
    answer = Methods(bench()).answer({})
    assert (answer["study"], answer["method"], answer["bits"]) == ("second", "trdq", "w4a8")
    assert "rotation" in [p["key"] for p in answer["missing"]["probes"]]
    assert "alpha" not in [p["key"] for p in answer["missing"]["probes"]]
    command = answer["missing"]["command"]
    assert command.startswith("dqviz probe dit-emoji --method trdq --bits w4a8")
    part = Methods(bench()).answer({"study": "second", "want": ["alpha"], "site": FC2})
    assert [s["key"] for s in part["sections"]] == ["alpha"]
    assert "controls" not in part
    assert part["selection"]["site"] == FC2


def test_other_bits_show_that_nothing_is_measured_there() -> None:
    probes.study_with_probes(studies_root() / "mine", method="viditq", alpha=probes.alpha())
    answer = Methods(bench()).answer({"study": "mine", "bits": "w4a4"})
    assert [p["key"] for p in answer["missing"]["probes"]] == ["alpha"]
    assert answer["controls"]["bits"][0] == "w4a8"
    assert "w4a4" in answer["controls"]["bits"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"study": "../../etc"}, "unknown study"),
        ({"study": "mine", "method": "rtn"}, "unknown method with views"),
        ({"study": "mine", "bits": "lots"}, "lots"),
    ],
)
def test_what_cannot_be_had_is_one_line(query: dict[str, str], says: str) -> None:
    probes.study_with_probes(studies_root() / "mine", method="viditq", alpha=probes.alpha())
    ask = server_functions(bench())[0]
    assert says in json.loads(ask(query))["error"]
    assert "error" not in json.loads(ask([{"study": "mine"}]))


def test_a_probe_whose_file_is_gone_says_so() -> None:
    study = probes.study_with_probes(studies_root() / "mine", method="viditq", alpha=probes.alpha())
    (study.folder / study.probes()[0]["file"]).unlink()
    with pytest.raises(BadInput, match="is gone"):
        Methods(bench()).answer({"study": "mine"})


def test_a_job_is_queued_followed_and_cancelled() -> None:
    probes.study_with_probes(studies_root() / "mine", method="viditq", alpha=probes.alpha())
    made = bench()
    ask, start, state, cancel = server_functions(made)
    begun = json.loads(start({"what": "probe", "study": "mine", "method": "trdq", "bits": "w4a4"}))
    job = made.store.get(begun["job"])
    assert job.kind == "probe"
    assert job.study == (studies_root() / "mine").absolute()
    assert (job.request["method"], job.request["bits"]) == ("trdq", "w4a4")
    assert json.loads(state(begun))["state"] == QUEUED
    assert json.loads(ask({"study": "mine"}))["missing"]["jobs"] == {"probe": job.id}
    assert json.loads(cancel(begun))["state"] == "cancelled"
    assert json.loads(ask({"study": "mine"}))["missing"]["jobs"] == {}
    capture = json.loads(start({"what": "capture", "study": "mine", "method": "viditq", "bits": "w4a8"}))  # fmt: skip
    assert made.store.get(capture["job"]).kind == "capture"
    assert "unknown model" in json.loads(start({"what": "probe", "model": "/etc"}))["error"]


def test_a_job_on_a_recorded_study_leads_to_the_copy_that_it_writes_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    for module in ("study_folder", "studies"):
        monkeypatch.setattr(f"dqviz.{module}.RECORDED", shelf)
    folder = shelf / "came-along"
    probes.study_with_probes(folder, method="viditq", alpha=probes.alpha())
    made = bench()
    ask, start, state, _ = server_functions(made)
    query = {"study": made.library.name_of(folder), "method": "viditq", "bits": "w3a8"}
    assert json.loads(ask(query))["missing"]["copy"] == folder.name
    begun = json.loads(start({**query, "what": "probe"}))
    assert json.loads(state(begun))["study"] is None  # there is no copy yet
    own = writable(folder)
    name = json.loads(state(begun))["study"]
    assert made.library.folders()[name].resolve() == own.resolve()
    assert json.loads(ask({**query, "study": name}))["missing"]["copy"] is None


def test_probes_of_different_options_are_said_to_be() -> None:
    study = probes.study_with_probes(studies_root() / "mine", method="trdq", alpha=probes.alpha(count=2))  # fmt: skip
    record = {**study.probes()[0]["record"], "probe": "rotation"}
    study.add_probe("x", probes.rotation(), {"method_options": {"windows": 2}}, probe="rotation", method="trdq", bits="w4a8", record=record)  # fmt: skip
    notes = Methods(bench()).answer({"study": "mine"})["notes"]
    assert any("different options" in note for note in notes)


# -- links into Compare


def form_of(**asked: str) -> Form | None:
    return bench().form_of_link(asked)


def test_a_link_opens_compare_with_method_bits_and_options() -> None:
    form = form_of(
        method="viditq", bits="w4a4", **{"option.alpha": '{"*.ff.net.2": 0.2, "*": 0.5}'}
    )
    assert form is not None
    assert [r["method"] for r in form.runs] == ["rtn", "viditq"]
    request = form.request()
    assert request.options == {"viditq.alpha": {"*.ff.net.2": 0.2, "*": 0.5}}
    again = Form.of_request(request)
    assert again.request().options == request.options, "an option of several words stays one"
    assert form_of(model="dit-emoji") is None
    assert form_of(method="rtn").runs == [{"method": "rtn", "bits": "w4a8"}]  # type: ignore[union-attr]
    with pytest.raises(BadInput, match="unknown method in the link"):
        form_of(method="vidit")
