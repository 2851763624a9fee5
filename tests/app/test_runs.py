"""The Runs page's questions and actions as functions: what they show, do and refuse."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dqviz import studies
from dqviz.study import Study
from dqviz.study_folder import default_folder, studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.desk import WORKER
from dqviz.ui.runs import RunsDesk, server_functions
from dqviz.work import KINDS
from quant.errors import BadInput
from tests.app.conftest import FakeCompare
from tests.app.followed import run_form, screens_of
from tests.app.test_handlers import form


def desk(compare: FakeCompare | None = None, **more: Any) -> RunsDesk:
    return RunsDesk(Bench(compare=compare or FakeCompare(), models=[], **more))


def ran(compare: FakeCompare | None = None, **changed: Any) -> RunsDesk:
    """One comparison, done by a thread that has ended: it would take what another desk is asked for next."""
    made = desk(compare)
    list(run_form(made.bench, form(**changed)))
    deadline = time.monotonic() + 60
    while any(thread.name == WORKER for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the worker does not end"
        time.sleep(0.02)
    return made


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study among those that came with dqviz; nothing is in the studies folder."""
    ran()
    shelf = tmp_path / "assets" / "studies"
    shelf.mkdir(parents=True)
    shutil.move(default_folder("tiny-dit"), shelf / "tiny-dit")
    monkeypatch.setattr("dqviz.study_folder.RECORDED", shelf)
    monkeypatch.setattr("dqviz.studies.RECORDED", shelf)
    return shelf / "tiny-dit"


def test_empty_lists_say_what_to_do() -> None:
    shown = desk()
    assert shown.jobs({})["jobs"] == []
    assert "Run" in shown.jobs({})["empty"]["link"]["text"]
    assert "Run" in shown.studies({})["empty"]["text"]


def test_a_job_from_asking_to_deleting() -> None:
    shown = desk(FakeCompare(pause=0.3))
    first, second = (shown.bench.submit(form()) for _ in range(2))
    rows = {row["id"]: row for row in shown.jobs({})["jobs"]}
    assert rows[first.id]["actions"] == ["cancel"]
    assert rows[second.id]["what"] == "Next in line" or rows[first.id]["what"] == "Next in line"
    assert rows[first.id]["watch"] == f"./?job={first.id}"
    shown.job({"action": "cancel", "id": second.id})
    list(screens_of(shown.bench.follow(first.id)))
    row = next(r for r in shown.jobs({})["jobs"] if r["id"] == first.id)
    assert (row["state"], row["study"], row["actions"]) == ("done", "tiny-dit", ["delete"])
    assert row["command"].startswith("dqviz compare tiny-dit")
    assert "finished" in shown.log({"id": first.id})["text"]
    cancelled = next(r for r in shown.jobs({})["jobs"] if r["id"] == second.id)
    assert cancelled["actions"] == ["resume", "delete"]
    shown.job({"action": "resume", "id": second.id})
    list(screens_of(shown.bench.follow(second.id)))
    for job in (first, second):
        shown.job({"action": "delete", "id": job.id})
    assert shown.jobs({})["jobs"] == []
    assert len(shown.studies({})["studies"]) == 1, "what they made stays"


def test_open_leads_to_the_comparison_of_the_job() -> None:
    fake = FakeCompare()
    shown, asked = desk(fake), []
    for seeds, fails in (("0-3", None), ("5,6", None), ("0-3", BadInput("no"))):
        fake.fails = fails
        asked.append(shown.bench.submit(form(seeds=seeds)))
        list(screens_of(shown.bench.follow(asked[-1].id)))
    links = {row["id"]: row["open"] for row in shown.jobs({})["jobs"]}
    assert [links[job.id] for job in asked] == [
        "./?study=tiny-dit&comparison=1",
        "./?study=tiny-dit&comparison=2",
        None,  # it made nothing
    ]
    view = shown.bench.opened("tiny-dit", 1).view
    assert view is not None
    assert [s["seed"] for s in view.section("pictures")["samples"]] == [0, 1, 2, 3]
    (default_folder("tiny-dit") / "study.sqlite").write_bytes(b"not a database" * 100)
    assert {row["open"] for row in shown.jobs({})["jobs"]} == {None}


@pytest.mark.parametrize(
    ("ask", "query"),
    [
        ("job", {"action": "cancel", "id": "../../etc"}),
        ("job", {"action": "submit", "id": "x"}),
        ("job", {"action": None}),
        ("log", {"id": "../studies/tiny-dit/study.json"}),
        ("log", {}),
        ("study", {"action": "delete", "study": "../.."}),
        ("study", {"action": "delete", "study": "/etc"}),
        ("study", {"action": "delete", "study": "tiny-dit/../tiny-dit"}),
        ("study", {"action": "delete", "study": ["tiny-dit"]}),
        ("study", {"action": "rename", "study": "tiny-dit"}),
        ("beside", {"first": {"study": "../x", "comparison": 1}, "second": {}}),
        ("beside", {"first": {"study": "tiny-dit", "comparison": "1"}, "second": {}}),
        ("beside", {"first": {"study": "tiny-dit", "comparison": 99}, "second": {"study": "tiny-dit", "comparison": 1}}),
        ("beside", {}),
    ],
)  # fmt: skip
def test_nothing_else_can_be_named(ask: str, query: dict[str, Any]) -> None:
    shown = ran()
    before = sorted(p.as_posix() for p in shown.bench.store.root.rglob("*"))
    with pytest.raises(BadInput) as caught:
        getattr(shown, ask)(query)
    assert "\n" not in str(caught.value)
    assert sorted(p.as_posix() for p in shown.bench.store.root.rglob("*")) == before


@pytest.mark.parametrize("query", [None, 3, "x", [], [[]], {"action": {}}])
def test_a_browser_may_send_anything(query: object) -> None:
    for answer in server_functions(desk().bench):
        assert isinstance(answer(query), dict)


def test_a_broken_job_list_does_not_break_the_compare_page() -> None:
    shown = ran()
    (shown.bench.store.root / "jobs.sqlite").write_bytes(b"nothing" * 500)
    for log in shown.bench.store.root.glob("jobs.sqlite-*"):
        log.unlink()
    (jobs_function, *_) = server_functions(shown.bench)
    assert "not a readable job database" in jobs_function({})["error"]
    assert shown.bench.running() is None
    assert shown.bench.opened(None).view is not None


# -- studies


def test_delete_takes_a_study_of_the_folder_and_no_other(tmp_path: Path) -> None:
    shown = ran()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(default_folder("tiny-dit"), elsewhere)
    (studies_root() / "link").symlink_to(elsewhere)
    with pytest.raises(BadInput, match="is not in"):
        studies.delete(elsewhere)
    with pytest.raises(BadInput, match="is not in"):
        studies.delete(studies_root() / "link")
    shown.study({"action": "delete", "study": "tiny-dit"})
    assert not default_folder("tiny-dit").exists()
    assert (elsewhere / "study.json").is_file()
    assert not list(studies_root().glob(".partial-*"))


def test_a_study_that_a_job_writes_into_stays() -> None:
    shown = ran()
    job = shown.bench.store.submit("compare", form().request().to_json())
    with pytest.raises(BadInput, match="a job writes into study"):
        shown.study({"action": "delete", "study": "tiny-dit"})
    shown.bench.store.cancel(job.id)
    shown.study({"action": "delete", "study": "tiny-dit"})


def test_a_recorded_study_is_listed_read_only_and_stays(recorded: Path) -> None:
    shown = desk()
    (row,) = shown.studies({})["studies"]
    assert (row["name"], row["recorded"], row["deletable"]) == ("tiny-dit", True, False)
    with pytest.raises(BadInput, match="came with dqviz"):
        shown.study({"action": "delete", "study": "tiny-dit"})
    view = shown.bench.opened(None).view
    assert view is not None
    assert "recorded" in [b["text"] for b in view.section("headline")["badges"]]
    badges = [
        r["cells"][-1].get("badge", {})
        for r in view.section("table", "Quality, size, time")["rows"]
    ]
    assert "measured" not in [b.get("text") for b in badges]


def test_running_into_a_recorded_study_writes_into_a_copy(recorded: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in recorded.rglob("*") if p.is_file()}
    compare = FakeCompare()

    def into_place(request: Any, *more: Any) -> Any:
        """As the engine does."""
        out = studies.writable(request.out or default_folder(request.model))
        return compare(request.model_copy(update={"out": out}), *more)

    bench = Bench(compare=into_place, models=[])
    last = list(run_form(bench, form(), study="tiny-dit"))[-1]
    assert last.status["state"] == "idle", last.status
    assert {p: p.stat().st_mtime_ns for p in recorded.rglob("*") if p.is_file()} == before
    own = Study.open(default_folder("tiny-dit"))
    assert not own.read_only
    assert len(own.comparisons()) == 2, "what was recorded, and the new one"
    assert [f.name for f in studies.folders().values()] == ["tiny-dit", "tiny-dit"]
    assert "tiny-dit (recorded)" in studies.folders()


def test_a_reload_on_a_recorded_study_finds_the_job_that_writes_into_its_copy(
    recorded: Path,
) -> None:
    bench = desk().bench
    job = bench.store.submit("compare", form().request().to_json() | {"out": str(recorded)})
    assert bench.attached(None, "tiny-dit") == job.id
    bench.store.cancel(job.id)


@pytest.mark.parametrize("kind", ["compare", "capture"])
def test_the_command_of_a_job_names_the_copy_and_not_the_recorded_study(
    recorded: Path, kind: str
) -> None:
    request = {"model": "tiny-dit", "seeds": [0], "out": str(recorded)}
    if kind == "compare":
        request |= {"methods": ["rtn"], "bits": ["w4a8"]}
    command = KINDS[kind].command(request)
    assert str(default_folder("tiny-dit")) in command
    assert str(recorded) not in command
    assert str(recorded) in KINDS[kind].command({**request, "out": str(recorded / "more")})


def test_a_recorded_study_refuses_to_be_written(recorded: Path) -> None:
    from quant.errors import EnvironmentFault

    study = Study.open(recorded)
    with pytest.raises(EnvironmentFault, match="read-only; copy it"):
        study.begin({}, {})


def test_duplicates_have_names_of_their_own() -> None:
    shown = ran()
    shown.study({"action": "duplicate", "study": "tiny-dit"})
    rows = shown.study({"action": "duplicate", "study": "tiny-dit"})["studies"]
    assert sorted(r["name"] for r in rows) == ["tiny-dit", "tiny-dit-2", "tiny-dit-3"]
    assert {r["bytes"] > 0 and not r["problem"] for r in rows} == {True}


def test_opening_a_study_fills_the_form() -> None:
    asked = form(seeds="0-2,9", options="viditq.alpha=0.5", classes=["1"], guidance=2.0)
    shown = desk()
    list(run_form(shown.bench, asked))
    filled = shown.bench.form_of("tiny-dit")
    assert filled is not None
    assert filled.request() == asked.request()


# -- two side by side


def test_same_seeds_are_paired() -> None:
    shown = ran()
    list(run_form(shown.bench, form()))
    pair = {"first": {"study": "tiny-dit", "comparison": 1}, "second": {"study": "tiny-dit", "comparison": 2}}  # fmt: skip
    runs, changed = shown.beside(pair)["sections"]
    assert "seed by seed" in runs["lede"]
    assert len(runs["rows"]) == 4
    assert [row["cells"][0]["sub"] for row in runs["rows"]] == ["tiny-dit · 1"] * 2 + ["tiny-dit · 2"] * 2  # fmt: skip
    assert len(changed["rows"]) == 2
    assert changed["rows"][0]["cells"][1]["text"].startswith("+0.00")


def test_other_seeds_are_not_paired_and_it_says_so() -> None:
    shown = ran()
    list(run_form(shown.bench, form(seeds="20-23")))
    pair = {"first": {"study": "tiny-dit", "comparison": 1}, "second": {"study": "tiny-dit", "comparison": 2}}  # fmt: skip
    (runs,) = shown.beside(pair)["sections"]
    assert "Not paired: they share no seed" in runs["lede"]


def test_studies_of_other_models_are_not_set_side_by_side() -> None:
    shown = ran()
    model = {**FakeCompare().model, "fingerprint": "other", "title": "Another"}
    list(run_form(Bench(compare=FakeCompare(model=model), models=[]), form(model="another")))
    pair = {"first": {"study": "tiny-dit", "comparison": 1}, "second": {"study": "another", "comparison": 1}}  # fmt: skip
    with pytest.raises(BadInput, match="choose two of one model"):
        shown.beside(pair)


# -- the form, seen from afar


def test_candidates_are_opened_on_this_machine_only() -> None:
    asked = form(candidates="/models/theirs\n")
    assert asked.request().candidates == (Path("/models/theirs"),)
    (screen,) = run_form(
        Bench(compare=FakeCompare(), models=[], local_folders=False),
        form(model="facebook/DiT-XL-2-256", candidates="/models/theirs"),
    )
    assert "candidate '/models/theirs' is a folder of this machine" in screen.status["message"]


def test_an_uploaded_plan_is_kept_for_its_job(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"sites": {}}')
    bench = Bench(compare=FakeCompare(), models=[])
    job = bench.submit(form(plan=str(plan)))
    plan.unlink()
    list(screens_of(bench.follow(job.id)))
    kept = Path(job.request["plan"])
    assert kept.is_file()
    assert kept.is_relative_to(bench.store.root.absolute())
    plan.write_text("not JSON")
    with pytest.raises(BadInput, match=r"plan plan\.json is not JSON"):
        bench.submit(form(plan=str(plan)))
