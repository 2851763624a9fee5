"""Handlers as functions and generators: what a person presses, without Gradio or a model."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dqviz.study import Study
from dqviz.study_folder import default_folder, studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.compare import command_of
from dqviz.ui.form import Form, checked_runs, model_facts, names_a_folder
from dqviz.ui.library import Library
from dqviz.ui.progress import Follow, Screen
from quant.errors import BadInput
from tests.app.conftest import FakeCompare
from tests.app.followed import run_form, screens_of

RUNS = ({"method": "rtn", "bits": "w4a8"}, {"method": "viditq", "bits": "w4a8"})


def form(**changed: Any) -> Form:
    values: dict[str, Any] = {
        "model": "tiny-dit",
        "runs": RUNS,
        "seeds": "0-3",
        "classes": [],
        "prompts": "",
        "steps": 3,
        "guidance": 3.0,
    }
    return Form(**(values | changed))


def bench(compare: FakeCompare | None = None, **more: Any) -> Bench:
    return Bench(compare=compare or FakeCompare(), models=[], **more)


def states(screens: list[Screen]) -> list[str]:
    return [s.status["state"] for s in screens]


# -- the form


def test_the_form_makes_the_request() -> None:
    request = form(options="viditq.alpha=0.5 rotate=false", classes=["1"]).request()
    assert request.methods == ("rtn", "viditq")
    assert request.bits == ("w4a8",)
    assert request.seeds == (0, 1, 2, 3)
    assert request.options == {"viditq.alpha": 0.5, "rotate": False}
    assert request.classes == ("1",)


def test_bits_per_run() -> None:
    runs = [{"method": "rtn", "bits": "w8a8"}, {"method": "rtn", "bits": "w4a8"}]
    assert form(runs=runs).request().bits == ("w8a8", "w4a8")


def test_a_plan_takes_the_place_of_bits() -> None:
    request = form(plan="plan.json").request()
    assert (request.plan, request.bits) == (Path("plan.json"), ())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": ""}, "no model"),
        ({"model": None}, "no model"),
        ({"runs": []}, "no run"),
        ({"runs": RUNS * 4}, "too many"),
        ({"seeds": "7-3"}, "backwards"),
        ({"seeds": "abc"}, "'abc' is not a seed"),
        ({"seeds": ""}, "seed"),
        ({"steps": 0}, "steps 0 is out of range"),
        ({"steps": 2.5}, "not a whole number"),
        ({"guidance": -1.0}, "guidance -1 is out of range"),
        ({"options": "alpha"}, "name=value"),
        ({"windows": 1.5}, "windows 1.5"),
    ],
)
def test_bad_input_is_one_line_with_the_value(changed: dict[str, Any], says: str) -> None:
    compare = FakeCompare()
    (screen,) = run_form(bench(compare), form(**changed))
    assert screen.status["state"] == "failed"
    assert says in screen.status["message"]
    assert "\n" not in screen.status["message"]
    assert screen.view is None, "what is on the page stays"
    assert compare.requests == []


@pytest.mark.parametrize("model", ["/etc", "./x", "~/x", "..", "a/b/c", "C:\\models", "nothing"])
def test_folders_do_not_load_while_others_can_reach_the_app(model: str) -> None:
    assert names_a_folder(model)
    (screen,) = run_form(bench(local_folders=False), form(model=model))
    assert "is a folder" in screen.status["message"]


def test_hub_models_load_from_afar() -> None:
    assert not names_a_folder("facebook/DiT-XL-2-256")
    assert not names_a_folder("facebook/DiT-XL-2-256@refs/pr/1")


def test_files_of_this_machine_are_opened_on_it_alone() -> None:
    tune = {
        "model": "/models/tune.safetensors",
        "base": "owner/name",
        "loras": "a.safetensors:0.5\n\n",
    }
    request = form(**tune).request()
    assert request.source.to_json() == {
        "ref": "/models/tune.safetensors",
        "base": "owner/name",
        "loras": [{"file": "a.safetensors", "scale": 0.5}],
        "offline": False,
    }
    again = Form.of_request(request)
    assert (again.base, again.loras) == ("owner/name", "a.safetensors:0.5")
    assert form().request().to_json().keys() & {"base", "loras", "offline"} == set()
    for given in ({"loras": "/models/a.safetensors"}, {"base": "/models/base"}):
        (screen,) = run_form(bench(local_folders=False), form(model="owner/name", **given))
        assert "is a file of this machine" in screen.status["message"]


def test_the_form_says_how_weights_are_held_and_attention_is_computed() -> None:
    request = form(residency="memory", attention="int8").request()
    assert (request.residency, request.attention) == ("memory", "int8")
    again = Form.of_request(request)
    assert (again.residency, again.attention) == ("memory", "int8")
    assert {"--residency memory", "--attention int8"} <= set(
        re.findall(r"--(?:residency|attention) \w+", again.command())
    )
    assert form().request().attention is None
    assert "--attention" not in form().command()


@pytest.mark.parametrize(
    "value", [None, "x", [1], [{}], [{"method": "rtn"}], [{"method": 1, "bits": "w4a8"}], [{"method": "x" * 99, "bits": "w4a8"}]]
)  # fmt: skip
def test_a_browser_cannot_send_just_anything_as_runs(value: object) -> None:
    with pytest.raises(BadInput):
        checked_runs(value)


def test_the_command_follows_the_form() -> None:
    assert form().command().startswith("dqviz compare tiny-dit --method rtn --method viditq")
    assert form(seeds="x").command().startswith("# seeds 'x'")


@pytest.mark.parametrize(
    ("study", "named"), [("lrn", True), ("tiny-dit", False), ("other", False), (None, False)]
)
def test_the_command_lands_where_run_does(
    study: str | None, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted, it goes on with what the page began: its folder is said where it is not the model's own."""
    made = FakeCompare().model
    Study.create(studies_root() / "lrn", made, {"dqviz": "0"})
    Study.create(studies_root() / "tiny-dit", made, {"dqviz": "0"})
    Study.create(studies_root() / "other", {**made, "key": "else", "ref": "else"}, {"dqviz": "0"})
    tabs = bench()
    monkeypatch.setattr(tabs.desk, "wake", lambda: None)
    words = command_of(tabs, form(), study).split()
    assert ("--out" in words) == named
    out = Path(words[words.index("--out") + 1]) if named else default_folder("tiny-dit")
    assert out.resolve() == tabs.submit(form(), study).study.resolve()


def test_facts_come_from_the_card(tmp_path: Path) -> None:
    card = {"title": "T", "steps": 4, "guidance": 3.0, "classes": {"0": "apple", "1": "cat"}}
    (tmp_path / "dqviz.json").write_text(json.dumps(card))
    facts = model_facts(str(tmp_path), [], folders=True)
    assert (facts.steps, facts.guidance) == (4, 3.0)
    assert facts.classes == {"0": "apple", "1": "cat"}
    assert not facts.takes_prompts
    assert model_facts(str(tmp_path), [], folders=False).steps is None


# -- running


def test_a_run_from_start_to_end() -> None:
    compare = FakeCompare()
    screens = list(run_form(bench(compare), form()))
    assert states(screens)[-1] == "idle"
    assert [s.running for s in screens] == [True] * (len(screens) - 1) + [False]
    first, last = screens[0].view, screens[-1].view
    assert first is not None
    assert last is not None
    assert len(first.section("pictures")["runs"]) == 3, "places for all runs from the start"
    assert last.address == "tiny-dit"
    assert [len(images) for images in last.section("pictures")["images"]] == [4, 4, 4]
    assert last.section("pictures")["samples"][1] == {"seed": 1, "label": "cat"}


def test_previews_go_to_the_column_of_their_run() -> None:
    screens = run_form(bench(FakeCompare(pause=0.6)), form())
    frames = [frame for s in screens for frame in s.live or ()]
    assert [f["run"] for f in frames] == sorted(f["run"] for f in frames)
    assert {f["run"] for f in frames} == {0, 1, 2}
    assert all(f["images"][0].startswith("data:image/png;base64,") for f in frames)


def test_progress_says_what_how_much_and_how_long() -> None:
    running = [s.status for s in run_form(bench(FakeCompare(pause=0.3)), form())]
    told = [s for s in running if s.get("total")]
    assert all({"text", "done", "total", "left"} <= set(s) for s in told)
    assert told[-1]["text"].startswith("Drawing ")


def cancel_shown(tabs: Bench) -> None:
    """What the Cancel button does, where one job is active."""
    (job,) = (j for j in tabs.store.jobs() if j.active)
    tabs.desk.cancel(job.id)


def test_cancel_keeps_finished_runs_and_a_second_run_works() -> None:
    fake = FakeCompare(held={(0, 1, 2, 3)}, held_from=(1, 0))
    tabs = bench(fake)
    screens = []
    for screen in run_form(tabs, form()):
        screens.append(screen)
        drawn = screen.view and len(screen.view.section("pictures")["images"][0]) == 4
        if screen.running and drawn:
            cancel_shown(tabs)
    assert states(screens)[-1] == "cancelled"
    assert not screens[-1].running
    assert "1 finished run" in screens[-1].status["message"]
    assert screens[-1].view is not None
    assert screens[-1].view.section("headline")["badges"][0]["text"] == "cancelled"
    fake.held.clear()
    assert states(list(run_form(tabs, form())))[-1] == "idle"


def test_while_a_job_is_being_cancelled_the_page_says_so() -> None:
    tabs = bench()
    job = tabs.store.submit("compare", form().request().to_json())
    assert tabs.store.claim() is not None
    tabs.store.cancel(job.id)
    screen = Follow(tabs.store, job.id, tabs.library, lambda model: {"key": model}).look()
    assert screen is not None
    assert screen.status["state"] == "cancelling"
    assert screen.running


def test_cancel_before_anything_is_finished() -> None:
    tabs = bench(FakeCompare(pause=0.5))
    screens = []
    for screen in run_form(tabs, form()):
        screens.append(screen)
        if len(screens) == 1:
            cancel_shown(tabs)
    assert states(screens)[-1] == "cancelled"
    assert "nothing was finished" in screens[-1].status["message"]


def test_an_error_of_the_engine_is_the_strip_and_nothing_is_lost() -> None:
    compare = FakeCompare(fails=BadInput("class 'dragon' was never trained; nearest: cat"))
    screens = list(run_form(bench(compare), form()))
    assert screens[-1].status["message"] == "class 'dragon' was never trained; nearest: cat"
    assert not screens[-1].running


def test_a_failure_half_way_keeps_what_was_finished() -> None:
    compare = FakeCompare(fails=BadInput("disk full"), fails_in_run=1)
    last = list(run_form(bench(compare), form()))[-1]
    assert last.status["state"] == "failed"
    assert last.view is not None
    assert len(last.view.section("pictures")["images"][0]) == 4


def test_a_bug_is_called_one() -> None:
    tabs = bench(FakeCompare(fails=ZeroDivisionError("by zero")))
    last = list(run_form(tabs, form()))[-1]
    assert "internal error (ZeroDivisionError)" in last.status["message"]
    (job,) = tabs.store.jobs()
    assert "Traceback" in tabs.store.logs(job.id)


def test_a_second_tab_waits_and_can_leave_the_line() -> None:
    tabs = bench(FakeCompare(pause=0.3))
    first = tabs.submit(form())
    second = tabs.submit(form())
    seen = []
    for screen in screens_of(tabs.follow(second.id)):
        seen.append(screen)
        if screen.status["state"] == "waiting":
            tabs.desk.cancel(second.id)
    assert "1 job is ahead" in seen[0].status["text"]
    assert states(seen)[-1] == "cancelled"
    tabs.desk.cancel(first.id)
    list(screens_of(tabs.follow(first.id)))


def test_cancelling_what_waits_goes_back_to_what_runs() -> None:
    tabs = bench(FakeCompare(pause=0.3))
    first, second = tabs.submit(form()), tabs.submit(form())
    while tabs.store.get(first.id).state != "running":
        time.sleep(0.05)
    assert tabs.cancel(second.id) == first.id
    assert tabs.store.get(second.id).state == "cancelled"
    assert tabs.store.get(first.id).cancel_requested is None, "what runs goes on"
    assert tabs.cancel(first.id) == first.id, "the page says that it is being cancelled"
    assert states(list(screens_of(tabs.follow(first.id))))[-1] == "cancelled"
    assert tabs.cancel(first.id) == first.id, "nothing else is there to show"


def test_jobs_are_done_in_the_order_of_their_coming() -> None:
    compare = FakeCompare()
    tabs = bench(compare)
    asked = [tabs.submit(form(seeds=str(n))) for n in range(3)]
    assert states(list(screens_of(tabs.follow(asked[-1].id))))[-1] == "idle"
    assert [r.seeds for r in compare.requests] == [(0,), (1,), (2,)]
    assert [tabs.store.get(job.id).state for job in asked] == ["done"] * 3


def test_closing_the_tab_stops_nothing_and_another_one_re_attaches() -> None:
    watched = threading.Event()

    def compare(*asked: Any) -> dict[str, Any]:
        assert watched.wait(60)
        return FakeCompare()(*asked)

    tabs = bench(compare)  # type: ignore[arg-type]
    screens = run_form(tabs, form())
    next(screens)
    screens.close()  # type: ignore[attr-defined]
    job = tabs.running()
    assert job is not None
    late = []
    other = bench(compare)  # type: ignore[arg-type]  (another process: it may take the job, too)
    for screen in screens_of(other.follow(job.id)):
        late.append(screen)
        if states(late)[-1] == "running":
            watched.set()
    assert watched.is_set()
    assert states(late)[-1] == "idle"
    assert tabs.running() is None


def test_a_reload_with_the_study_in_the_address_finds_the_job_again() -> None:
    study_of(FakeCompare())
    tabs = bench(FakeCompare(pause=0.2))
    job, other = tabs.submit(form(), study="tiny-dit"), tabs.submit(form(model="another"))
    assert tabs.attached(None, None) == job.id
    assert tabs.attached(None, "tiny-dit") == job.id
    assert tabs.attached(other.id, "tiny-dit") == other.id, "the one that was followed"
    assert tabs.attached(None, "tiny-dit", 1) is None, "a comparison was asked for"
    assert tabs.attached(None, "nothing") is None
    assert tabs.attached("deleted", "tiny-dit") == job.id
    for asked in (other, job):
        tabs.desk.cancel(asked.id)
    list(screens_of(tabs.follow(job.id)))
    assert tabs.attached(None, "tiny-dit") is None
    assert tabs.attached(job.id, "tiny-dit") == job.id, "how it ended"


def test_two_viewers_see_the_same() -> None:
    tabs = bench(FakeCompare(pause=0.3))
    job = tabs.submit(form())
    viewers = [tabs.follow(job.id) for _ in range(2)]
    seen: list[list[Screen]] = [[], []]
    while not all(v.over for v in viewers):
        for viewer, screens in zip(viewers, seen):
            if not viewer.over and (screen := viewer.look()) is not None:
                screens.append(screen)
    for screens in seen:
        assert len([s for s in screens if s.live]) >= 3
        assert [len(s.view.section("pictures")["images"]) for s in screens if s.view] != []
        assert states(screens)[-1] == "idle"


# -- studies


def study_of(compare: FakeCompare) -> Study:
    list(run_form(bench(compare), form()))
    return Study.open(default_folder("tiny-dit"))


def test_the_latest_study_opens_first() -> None:
    study_of(FakeCompare())
    screen = bench().opened(None)
    assert screen.view is not None
    assert screen.view.address == "tiny-dit"


def test_without_a_study_the_page_invites() -> None:
    screen = bench().opened(None)
    assert screen.view is not None
    assert screen.view.sections[0]["kind"] == "empty"


@pytest.mark.parametrize("name", ["nothing", "../tiny-dit", "/etc", "tiny-dit/../tiny-dit", "<b>"])
def test_only_listed_studies_open(name: str) -> None:
    study_of(FakeCompare())
    screen = bench().opened(name)
    assert screen.status["state"] == "failed"
    assert f"unknown study '{name}'" in screen.status["message"]


def test_a_study_elsewhere_opens_when_it_was_named_at_the_start(tmp_path: Path) -> None:
    study = study_of(FakeCompare())
    there = study.folder.rename(tmp_path / "elsewhere")
    screen = bench(library=Library(there)).opened(None)
    assert screen.view is not None
    assert screen.view.address == "elsewhere"


def test_a_broken_study_is_passed_over() -> None:
    folder = study_of(FakeCompare()).folder
    (folder / "study.sqlite").write_bytes(b"not a database" * 100)
    screen = bench().opened(None)
    assert screen.view is not None
    assert screen.view.sections[0]["kind"] == "empty"
    assert bench().opened("tiny-dit").status["state"] == "failed"


def test_more_pictures_come_in_pieces() -> None:
    study_of(FakeCompare())
    query = {"study": "tiny-dit", "comparison": 1, "first": 1, "count": 2}
    assert [len(run) for run in Library().pictures(query)["images"]] == [2, 2, 2]


@pytest.mark.parametrize(
    "changed",
    [{"study": "../x"}, {"study": None}, {"first": -1}, {"count": "all"}, {"comparison": 7}, {"first": True}],
)  # fmt: skip
def test_pictures_of_nothing_else(changed: dict[str, Any]) -> None:
    study_of(FakeCompare())
    query = {"study": "tiny-dit", "comparison": 1, "first": 0, "count": 2}
    with pytest.raises(BadInput):
        Library().pictures(query | changed)


@pytest.mark.parametrize("file", ["study.sqlite", "../study.json", "/etc/passwd", None, 3])
def test_only_offered_files_can_be_downloaded(file: object) -> None:
    study_of(FakeCompare())
    with pytest.raises(BadInput):
        Library().file({"study": "tiny-dit", "file": file})
    assert Library().file({"study": "tiny-dit", "file": "study.json"})["type"] == "application/json"
