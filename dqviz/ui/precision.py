"""The page Sensitivity and precision: one component; all that it computes with is sent once.

The browser sets bits, undoes and adds up; the server solves, predicts with an interval, and hands out jobs. Studies, tables
and plans are named by their listed names, never by a path.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quant.blueprint import Blueprint
from quant.errors import BadInput, DQVizError, unknown
from quant.latency import latencies
from quant.loss_calibration import FEWEST
from quant.sensitivity import list_tiers

from .. import allocating, sweeping
from ..allocating import AllocateRequest
from ..pages import precision as page
from ..studies import place
from ..study import Study
from ..sweeping import SweepRequest
from . import components
from .bench import Bench

KEPT = 4  # tables that stay parsed
BITS = (
    "3",
    "4",
    "6",
    "8",
    "16",
)  # of a sweep that the page starts; cells of 16 bits cost nothing to measure
STATE = ("state", "kind", "stage", "done", "total", "seconds_left", "message", "made")


class Precision:
    """Tables of all studies; the latest that were looked at stay parsed."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._open: OrderedDict[tuple[Path, int, int], page.Opened] = OrderedDict()
        self._lock = threading.Lock()

    # -- what there is

    def listed(self) -> dict[str, list[str]]:
        """Names of finished tables by study, the latest first; a study that does not open has none."""
        found: dict[str, list[str]] = {}
        for name in self.bench.library.folders():
            try:
                tables = [str(row["name"]) for row in _done(self.bench.library.open(name))]
            except DQVizError:
                continue
            if tables:
                found[name] = tables[::-1]
        return found

    def open(self, study_name: str, table: str | None) -> page.Opened:
        """A table of a study, by default its latest."""
        study = self.bench.library.open(study_name)
        rows = {str(row["name"]): row for row in _done(study)}
        if table is not None and table not in rows:
            raise unknown("table", table, rows, f"Study: {study_name}")
        if not rows:
            raise BadInput(
                f"study {study_name} has no finished sensitivity; measure one: dqviz sensitivity MODEL"
            )
        row = rows[table] if table is not None else list(rows.values())[-1]
        file = (study.folder / str(row["file"])).resolve()
        if not file.is_relative_to(study.folder.resolve()) or not file.is_file():
            raise BadInput(f"the file of table {row['name']} is gone; sweep again")
        facts = file.stat()
        key = (file, facts.st_mtime_ns, facts.st_size)
        with self._lock:
            held = self._open.pop(key, None) or self._read(study_name, study, row)
            self._open[key] = held
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
        return held

    def _read(self, name: str, study: Study, row: Mapping[str, Any]) -> page.Opened:
        model = study.manifest["model"]
        return page.Opened(
            study=name,
            folder=place(study.folder),
            title=str(model.get("title") or model.get("key")),
            row=row,
            blueprint=Blueprint.parse(study.blueprint(str(row["name"])), "the blueprint"),
            lines=study.sensitivity(str(row["name"])),
        )

    # -- answers

    def answer(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The page of a study and table, or why there is none and what to run."""
        listed = self.listed()
        study = _text(query.get("study")) or next(iter(listed), None)
        notes = []
        if study is not None:
            try:
                self.bench.library.open(study)
            except DQVizError as error:
                notes, study = [f"{error}. Showing another."], next(iter(listed), None)
        if study is None or study not in listed:
            return {**self._empty(study), "notes": notes, "studies": listed}
        try:
            opened = self.open(study, _text(query.get("table")))
        except DQVizError as error:
            notes.append(f"{error}. Showing the latest.")
            opened = self.open(study, None)
        held = self._study(opened)
        calibrations = {
            metric: found[-1]
            for metric in dict.fromkeys(str(line["metric"]) for line in opened.lines)
            if (found := held.calibrations(opened.row["key"], metric))
        }
        told = page.content(opened, calibrations, held.allocations())
        latencies(notes)  # tables of times that do not read
        return {
            **told,
            "notes": notes,
            "studies": listed,
            "folder": str(opened.folder),
            "fewest": FEWEST,
            "job": self._job(study, "allocate"),
        }

    def load(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A plan of the study, and what it was chosen under."""
        opened = self._asked(query)
        held = self._study(opened)
        return page.load(opened, held.allocations(), query.get("name"), held.allocated_plan)

    def suggest(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """A plan within budgets, at once."""
        return page.suggest(self._question(query))

    def solve(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The best plan within budgets, with its gap."""
        question = self._question(query)
        found = page.solve(question)
        return {**found, "command": allocating.as_command(self._request(question))}

    def appraise(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """What the plan is expected to lose, and the command that makes it."""
        question = self._question(query)
        told = page.appraise(question, self._calibration(question))
        return {**told, "command": allocating.as_command(self._request(question, whole=True))}

    def curve(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Plans over budgets, and those of the study beside them."""
        question = self._question(query)
        held = self._study(question.opened)
        plans = {
            str(a["name"]): held.allocated_plan(str(a["name"]))
            for a in held.allocations()
            if (a["sensitivity"], a["record"]["table"]["metric"])
            == (question.opened.row["name"], question.metric)
        }
        return page.curve(question, self._calibration(question), plans)

    def file(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The plan for download."""
        question = self._question(query)
        name = f"{question.opened.folder.name}-{question.opened.row['name']}-plan.json"
        return {
            "name": name,
            "text": json.dumps(page.file(question), indent=1, allow_nan=False) + "\n",
        }

    # -- jobs

    def start(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Queue a sweep, or a plan that is kept, calibrated and verified."""
        if query.get("what") == "sweep":
            request = self._sweep(_text(query.get("study")), query)
            return {"job": self.bench.desk.submit("sensitivity", request.to_json()).id}
        question = self._question(query)
        request = self._request(question, whole=not query.get("solved"))
        more = {name: _whole(query.get(name), name) for name in ("verify", "calibrate")}
        if any(more.values()):
            self._check_listed(question.opened.row["record"]["request"]["model"])
        request = AllocateRequest.parse({**request.to_json(), **more}, "the page")
        return {"job": self.bench.desk.submit("allocate", request.to_json()).id}

    def state(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """How a job stands, and the study that it writes into: for a recorded one, its copy."""
        job = self.bench.store.get(query.get("job"))
        into = self.bench.library.name_of(job.study)
        return {**{name: getattr(job, name) for name in STATE}, "study": into}

    def cancel(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Cancel a job; what was drawn is kept."""
        return {"state": self.bench.desk.cancel(query.get("job")).state}

    # -- inside

    def _asked(self, query: Mapping[str, Any]) -> page.Opened:
        study = _text(query.get("study"))
        if study is None:
            raise BadInput("no study is named")
        return self.open(study, _text(query.get("table")))

    def _study(self, opened: page.Opened) -> Study:
        return self.bench.library.open(opened.study)

    def _question(self, query: Mapping[str, Any]) -> page.Asked:
        return page.asked(self._asked(query), query)

    def _calibration(self, question: page.Asked) -> Mapping[str, Any] | None:
        opened = question.opened
        found = self._study(opened).calibrations(opened.row["key"], question.metric)
        return found[-1] if found else None

    def _request(self, question: page.Asked, *, whole: bool = False) -> AllocateRequest:
        """The question for `allocate`; `whole` pins every cell to what the plan has."""
        opened = question.opened
        budgets, pins = question.budgets, question.words
        by_hand = question.under if whole else None
        if whole:
            pins = opened.words(
                {k: b for k, b in question.chosen.items() if k.site in opened.blueprint.bytes}
            )
            budgets = {"avg_bits": _up(page.average(question, "avg_bits"))}
        return AllocateRequest.parse(
            {
                "study": str(opened.folder),
                "sensitivity": str(opened.row["name"]),
                "metric": None if question.metric == opened.posed(None).metric else question.metric,
                "budgets": budgets,
                "pins": pins,
                "ties": [] if whole else list(question.ties),
                "latency_device": question.device,
                "by_hand": by_hand,
            },
            "the page",
        )

    def _empty(self, study: str | None) -> dict[str, Any]:
        """Without a table: what there is to start."""
        models = [{"key": str(m["key"]), "title": str(m["title"])} for m in self.bench.models]
        tiers = [(key, f"{key}: {card.title}") for key, card in list_tiers().items()]
        first = _text(models[0]["key"]) if models else None
        try:
            request = self._sweep(study, {"model": first})
            section = page.empty(
                f"Study {study} has no table yet." if study else "", sweeping.as_command(request)
            )
        except DQVizError as error:
            section, models = page.empty(str(error)), []
        job = self._job(study, "sensitivity") if study else None
        return {
            "empty": section,
            "models": [] if study else models,
            "tiers": tiers,
            "study": study,
            "job": job,
            "can": bool(models),
        }

    def _sweep(self, study: str | None, query: Mapping[str, Any]) -> SweepRequest:
        """The sweep of a study's model, or of a listed one."""
        asked: dict[str, Any] = {"model": query.get("model"), "bits": ",".join(BITS)}
        if study is not None:
            held = self.bench.library.open(study)
            model = held.manifest["model"]
            asked |= {
                "model": model.get("ref") or model.get("key"),
                "outliers": model.get("outliers"),
            }
            asked |= {"out": str(place(held.folder))}
        self._check_listed(asked["model"])
        if tier := _text(query.get("tier")):
            asked["tier"] = tier
        return SweepRequest.parse(asked, "the page")

    def _check_listed(self, model: object) -> None:
        listed = [str(m["key"]) for m in self.bench.models]
        if model not in listed:
            raise unknown("model", model, listed)

    def _job(self, study: str, kind: str) -> str | None:
        """The job under way of that kind that writes into a study."""
        folder = place(self.bench.library.folders()[study]).resolve()
        try:
            jobs = [job for job in self.bench.store.jobs() if job.active and job.kind == kind]
        except DQVizError:  # a broken list must not keep a page from opening; the Runs page says it
            return None
        return next((job.id for job in jobs if job.study.resolve() == folder), None)


def _done(study: Study) -> list[dict[str, Any]]:
    """Finished sweeps."""
    return [row for row in study.sensitivities() if row["status"] == "done"]


def _up(value: float) -> float:
    """Rounded up to four decimals, so that it does as a budget."""
    return math.ceil(value * 10_000 - 1e-6) / 10_000 + 1e-4


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object, name: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInput(f"{name} {value!r} is not a whole number of at least 0")
    return value


def server_functions(bench: Bench) -> list[Callable[[Any], str]]:
    """What the browser may call, `precision` and `precision_NAME`; each answers with JSON text."""
    shown = Precision(bench)
    asks = {"precision": shown.answer}
    for name in (
        "load",
        "suggest",
        "solve",
        "appraise",
        "curve",
        "file",
        "start",
        "state",
        "cancel",
    ):
        asks[f"precision_{name}"] = getattr(shown, name)
    return [_function(name, ask) for name, ask in asks.items()]


def _function(
    name: str, ask: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[[Any], str]:
    def answer(query: Any) -> str:
        query = query[0] if isinstance(query, list) and len(query) == 1 else query
        try:
            found = ask(query if isinstance(query, dict) else {})
        except DQVizError as error:
            found = {"error": str(error)}
        return json.dumps(found, allow_nan=False, separators=(",", ":"))

    answer.__name__ = name
    return answer


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    components.component(
        "precision.js",
        "precision",
        "dq-precision",
        (),
        server_functions=server_functions(bench),
        elem_id="dq-precision",
    )
