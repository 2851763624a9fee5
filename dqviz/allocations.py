"""What a study holds of plans that were chosen: the plans, what predictions were held against, what was drawn.

Rows of the study's database; each plan is there once, whoever names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quant.errors import unknown
from quant.random_plans import DESIGN

from .files import dump, now
from .measurements import Measurements, free_row, has_table, slug


class Allocations(Measurements):
    """Plans under budgets, of one study.

    A plan that a person set is fixed by pins as a whole. Its record has `by_hand`: the `budgets`, `pins`, `ties` and
    `latency_device` that it was set under, so that it can be taken up again where it was left.
    """

    def allocations(self) -> list[dict[str, Any]]:
        """Every allocation in order: id, name, key, created, sensitivity, plan (fingerprint), record."""
        with self._database() as db:
            if not has_table(db, "allocations"):
                return []
            rows = db.execute("SELECT * FROM allocations ORDER BY id").fetchall()
        return [{**dict(row), "record": json.loads(row["record"])} for row in rows]

    def allocated_plan(self, name: str) -> dict[str, Any]:
        """The plan of one allocation."""
        with self._database() as db:
            there = has_table(db, "allocations")
            sought = "SELECT plans.plan FROM allocations JOIN plans ON fingerprint = allocations.plan WHERE name = ?"
            row = db.execute(sought, (name,)).fetchone() if there else None
        if row is None:
            names = [row["name"] for row in self.allocations()]
            raise unknown("allocation", name, names, f"Study: {self.folder}")
        return json.loads(row["plan"])

    def add_allocation(
        self,
        wanted: str,
        key: str,
        sensitivity: str,
        plan: tuple[str, Mapping[str, Any]],
        record: Mapping[str, Any],
    ) -> str:
        """Keep a plan with what is said of it; one that answers the same question gives way. Returns its name.

        A plan with `by_hand` that the study keeps already, of this table and metric, is not kept twice: what was
        measured of it goes to the one that is there.

        Args:
            wanted: name of a new one; the next free one is taken.
            key: fingerprint of what was asked for.
            sensitivity: name of the table that it was made from.
            plan: fingerprint and JSON.
            record: what is said of it.
        """
        self._check_writable()
        if record.get("by_hand") is not None and (
            known := self._known(sensitivity, plan[0], record)
        ):
            return known
        with self._database() as db:
            db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (plan[0], dump(plan[1])))
            held = db.execute("SELECT name FROM allocations WHERE key = ?", (key,)).fetchone()
            name = (
                str(held["name"])
                if held is not None
                else free_row(db, "allocations", slug(wanted) or "plan")
            )
            db.execute("DELETE FROM allocations WHERE key = ?", (key,))
            db.execute(
                "INSERT INTO allocations (name, key, created, sensitivity, plan, record)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (name, key, now(), sensitivity, plan[0], dump(record)),
            )
        return name

    def _known(self, sensitivity: str, plan: str, record: Mapping[str, Any]) -> str | None:
        """Tell every allocation of a plan what is new of it; the name of the latest, or None where there is none."""
        metric = record["table"]["metric"]
        rows = [
            row
            for row in self.allocations()
            if (row["sensitivity"], row["plan"]) == (sensitivity, plan)
            and row["record"]["table"]["metric"] == metric
        ]
        with self._database() as db:
            for row in rows:
                held = row["record"]
                news = ("predicted_loss", "calibration", "verified", "warnings")
                told = {name: record[name] for name in news}
                if held.get("by_hand") is not None:
                    told["by_hand"] = record["by_hand"]
                changed = dump({**held, **told})
                db.execute("UPDATE allocations SET record = ? WHERE id = ?", (changed, row["id"]))
        return str(rows[-1]["name"]) if rows else None

    def verification(self, sensitivity: str, metric: str, plan: str) -> dict[str, Any] | None:
        """What was measured of a plan (by its fingerprint) on the most samples, however it was asked for."""
        found = [
            row["record"]["verified"]
            for row in self.allocations()
            if (row["sensitivity"], row["plan"]) == (sensitivity, plan)
            and row["record"]["table"]["metric"] == metric
            and row["record"]["verified"] is not None
        ]
        return max(found, key=lambda verified: verified["n"], default=None)

    def plan_loss(self, key: str) -> dict[str, Any] | None:
        """What a plan lost on some samples; None where it was not drawn on them."""
        with self._database() as db:
            if not has_table(db, "plan_losses"):
                return None
            row = db.execute("SELECT record FROM plan_losses WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row["record"])

    def add_plan_loss(
        self, key: str, plan: tuple[str, Mapping[str, Any]], record: Mapping[str, Any]
    ) -> None:
        """Keep what a plan lost."""
        self._check_writable()
        with self._database() as db:
            db.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (plan[0], dump(plan[1])))
            db.execute(
                "INSERT OR REPLACE INTO plan_losses VALUES (?, ?, ?, ?)",
                (key, plan[0], now(), dump(record)),
            )

    def calibrations(self, sensitivity: str, metric: str) -> Sequence[dict[str, Any]]:
        """Records of the calibrations of one sweep (by its key) and metric, the one that most was drawn for last.

        Those on plans of another design than `quant.random_plans` has now are left out.
        """
        with self._database() as db:
            if not has_table(db, "calibrations"):
                return []
            rows = db.execute(
                "SELECT record FROM calibrations WHERE sensitivity = ? AND metric = ? ORDER BY id",
                (sensitivity, metric),
            ).fetchall()
        records = [json.loads(row["record"]) for row in rows]
        return sorted((r for r in records if r.get("design") == DESIGN), key=_drawn)

    def add_calibration(self, sensitivity: str, metric: str, record: Mapping[str, Any]) -> None:
        """Keep a calibration."""
        self._check_writable()
        with self._database() as db:
            db.execute(
                "INSERT INTO calibrations (sensitivity, metric, created, record) VALUES (?, ?, ?, ?)",
                (sensitivity, metric, now(), dump(record)),
            )


def _drawn(record: Mapping[str, Any]) -> int:
    """Samples that were drawn for a calibration."""
    return len(record["calibration"]["plans"]) * len(record["seeds"])
