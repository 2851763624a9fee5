"""Solved plans against plans that nobody solved for, at equal bytes; and predicted losses against measured ones.

    make plans                                 (dit-emoji as trained and with drifting outliers, 64 and 512 seeds; two hours)
    .venv/bin/python -m benchmarks.plans --kinds plain --budgets 4 --closest 16 --out /tmp/plans

Weights take 2 to 8 bits, inputs 8, rounded to nearest. A plan is solved from each tier's table for at most the bytes of
uniform bits, and drawn on seeds that the table, the calibration and the choice never saw. The plan that is claimed about is `gradient`: what
`dqviz allocate` solves from a table of that tier. Rivals: `benchmarks/rival_plans.py`.

Losses are compared by their logarithms, sample by sample (in dB): rounding turns a sample now and then into another picture, which
costs a hundred times what it costs the others, and a mean of losses is the count of those. Uniform bits and those of greedy by error
are the closest rivals: they are drawn on more samples than the others.

Tables and drawn plans are kept in `.plans/`: a run that was stopped goes on. Writes plans.json and plans.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quant.allocation import solve
from quant.balancing import incoherence_profile
from quant.blueprint import Blueprint
from quant.decisions import Key, Label
from quant.drafting import blueprint_of, size_of_plan
from quant.generation import timesteps_of
from quant.intervals import paired_difference
from quant.loss_calibration import Calibration, Verified
from quant.methods.viditq_mp import with_bits
from quant.mixed_precision import MB, Posed, posed
from quant.plan_loss import PlanLoss, logarithms, typical
from quant.plans import uniform_plan, windows_for
from quant.random_plans import random_plans
from quant.schema import Outliers, Plan, parse_bits
from quant.seeds import parse_seeds
from quant.sensitivity.cells import Row
from quant.sensitivity.sweep import measure as sweep
from quant.sensitivity.task import Settings

from .peers import versions
from .plans_page import CLAIMED, markdown
from .results import device, written
from .rival_plans import Bytes, Widths, greedy_by_error, greedy_by_incoherence, random
from .rows import CALIBRATION, Subject, digits, kept

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".plans"
FACTOR = 32.0  # of the outliers, as in docs/results/transforms.md
METHOD = "rtn"
WIDTHS = tuple(range(2, 9))
INPUTS = 8  # bits of every input, in every plan
TIERS = ("weight", "layer", "gradient")
RANDOM = 5
DRAWN_FROM = 300_000  # seeds of calibrations
VERIFIED_FROM = 400_000  # seeds of the comparison
AT_ONCE = 64  # samples that are kept together
CLOSEST = (
    "uniform",
    "greedy by error",
)  # drawn on as many samples as the plan that is claimed about
OTHERS = 32  # samples of the tables of other tiers than that plan's

ENGINE = ("torch", "diffusers")  # libraries that numbers here depend on

Drawn = dict[str, Any]  # a plan as it is kept: widths, bytes, losses


class Trial:
    """One kind of outliers: its tables, and what plans lose."""

    def __init__(self, kind: str, given: argparse.Namespace) -> None:
        self.kind, self.given = kind, given
        outliers = None if kind == "plain" else Outliers(kind=kind, factor=FACTOR)  # type: ignore[arg-type]
        self.subject = Subject(given.model, parse_seeds(given.seeds), given.steps, outliers)
        model, sampler = self.subject.model, self.subject.sampler
        self.full = uniform_plan(model, parse_bits(f"w{max(WIDTHS)}a{INPUTS}"), sampler=sampler)
        self.blueprint: Blueprint = blueprint_of(
            model,
            METHOD,
            {},
            tuple(self.full.sites),
            [str(w) for w in WIDTHS],
            windows_for(sampler, 1),
            self.subject.samples[0],
            sampler,
            timesteps_of(sampler),
        )
        self.bytes_of = Bytes(
            {name: {w: of[str(w)] for w in WIDTHS} for name, of in self.blueprint.bytes.items()}
        )
        self.tables = {tier: posed(self.blueprint, self._rows(tier)) for tier in TIERS}
        self.calibrated_on = self._losses(DRAWN_FROM, given.calibrated_on)
        self.verified_on = [
            self._losses(VERIFIED_FROM + n, min(AT_ONCE, given.closest - n))
            for n in range(0, given.closest, AT_ONCE)
        ]

    def _losses(self, first: int, count: int) -> PlanLoss:
        model, samples = self.subject.model, self.subject.model.samples(range(first, first + count))
        return PlanLoss(model, METHOD, {}, None, samples, self.subject.sampler)

    def _about(self, **what: Any) -> dict[str, Any]:
        engine = {name: version for name, version in versions().items() if name in ENGINE}
        subject = {n: self.subject.depends_on[n] for n in ("weights", "outliers", "sampler")}
        return {**subject, "versions": engine, "method": METHOD, "inputs": INPUTS, **what}

    def _rows(self, tier: str) -> list[Row]:
        """Weight cells of all steps, one for every width."""
        settings = Settings(probes=self.given.probes)
        samples = self.subject.samples if tier == CLAIMED else self.subject.samples[:OTHERS]

        def work() -> dict[str, Any]:
            found: list[Row] = []
            sweep(
                tier,
                self.subject.model,
                tuple(self.full.sites),
                [str(w) for w in WIDTHS],
                self.blueprint.windows,
                samples,
                self.subject.sampler,
                method=METHOD,
                seen=self.subject.seen if tier == "weight" else None,
                settings=settings,
                on_rows=found.extend,
            )
            return {"rows": [r.to_json() for r in found if r.cell.operand == "weight"]}

        about = self._about(
            tier=tier,
            widths=WIDTHS,
            settings=settings.to_json(),
            samples=[s.to_json() for s in samples],
            calibration=self.subject.depends_on["calibration"],
        )
        said = kept(CACHE, about, f"{self.kind}, table of {tier}", work)
        return [Row.parse(row, tier) for row in said["rows"]]

    def plan(self, widths: Mapping[str, int]) -> Plan:
        """These weight bits, and the same inputs as every other plan."""
        sites = {name: with_bits(site, widths[name]) for name, site in self.full.sites.items()}
        return self.full.model_copy(update={"sites": sites})

    def size(self, widths: Mapping[str, int]) -> int:
        """Bytes of the transformer's file."""
        return size_of_plan(self.blueprint, self.plan(widths))

    def loss(self, of: PlanLoss, widths: Mapping[str, int], label: str) -> np.ndarray:
        """Of every sample, float64[n]."""
        plan = self.plan(widths)
        about = self._about(plan=plan.fingerprint, drawn=[s.to_json() for s in of.samples])
        said = kept(
            CACHE,
            about,
            f"{self.kind}, {label}",
            lambda: {"per_sample": [float(v) for v in of.of(plan)]},
        )
        return np.array(said["per_sample"])

    def widths(self, chosen: Mapping[Key, Label]) -> Widths:
        """Weight bits out of choices."""
        sites = self.full.sites
        return {
            k.site: int(v) for k, v in chosen.items() if k.site in sites and k.operand == "weight"
        }

    def ways(self, table: Posed, widths: Mapping[str, int]) -> dict[Key, Label]:
        """The same as choices of a table, in which inputs are not decided."""
        only = {item.key: item.labels[0] for item in table.problem.items if len(item.labels) == 1}
        return only | {Key(name): width for name, width in widths.items()}

    def solved(self, table: Posed, uniform: Widths) -> Widths:
        """The least sum of costs at the bytes of uniform bits."""
        budget = self.size(uniform)
        # The program takes the file's header at its longest: a few bytes, which are a whole step of a layer here.
        within = self.bytes_of(uniform) + self.blueprint.rest_bytes
        while True:
            found = solve(table.problem, {"size_mb": within / MB})
            widths = self.widths(found.chosen)
            over = self.size(widths) - budget
            if over <= 0:
                return widths
            within -= over

    def calibration(self) -> Calibration:
        """Predictions of the table that plans are claimed from, held against plans that were drawn."""
        table, plans = self.tables[CLAIMED], []
        for n, chosen in enumerate(random_plans(table.problem, self.given.calibrate), start=1):
            losses = self.loss(
                self.calibrated_on, self.widths(chosen), f"plan {n} of the calibration"
            )
            plans.append(
                Verified(
                    cost=table.cost(chosen),
                    measured=typical(losses),
                    per_sample=tuple(float(v) for v in losses),
                )
            )
        made = Calibration(plans=tuple(plans))
        made.check()
        return made

    def plans(self, bits: int) -> dict[str, Widths]:
        """Every plan at the bytes of uniform bits, by its name."""
        uniform = self.bytes_of.uniform(bits)
        room = self.bytes_of(uniform)
        weight: dict[str, dict[int, float]] = {name: {} for name in self.full.sites}
        for row in self._rows("weight"):
            assert row.value is not None, "every width of every weight is measured"
            weight[row.cell.site][int(str(row.cell.bits))] = row.value
        inputs = {site.name: site.input_of for site in self.blueprint.sites}
        psi = {
            name: float(incoherence_profile(self.subject.seen.inputs[inputs[name]]).max())
            for name in self.full.sites
        }
        solved = {tier: self.solved(table, uniform) for tier, table in self.tables.items()}
        return {
            **solved,
            "uniform": uniform,
            **{f"random {n}": random(self.bytes_of, room, n) for n in range(RANDOM)},
            "greedy by error": greedy_by_error(self.bytes_of, room, weight),
            "greedy by incoherence": greedy_by_incoherence(self.bytes_of, room, bits, psi),
        }

    def drawn(self, name: str, widths: Widths, calibration: Calibration) -> Drawn:
        """One plan on the seeds of the comparison, beside what was predicted of it."""
        table = self.tables[CLAIMED]
        ways = self.ways(table, widths)
        on = self.verified_on if name in (CLAIMED, *CLOSEST) else self.verified_on[:1]
        losses = np.concatenate([self.loss(of, widths, name) for of in on])
        weights = {site.name: site.weights for site in self.blueprint.sites}
        whole = sum(weights[n] for n in widths)
        return {
            "plan": name,
            "widths": list(widths.values()),
            "avg_bits": sum(weights[n] * w for n, w in widths.items()) / whole,
            "size_bytes": self.size(widths),
            "typical": typical(losses),
            "predicted": calibration.predict(table.cost(ways), table.costs(ways)).to_json(),
            "per_sample": digits([float(v) for v in losses]),
        }

    def result(self) -> dict[str, Any]:
        """Every budget."""
        calibration = self.calibration()
        budgets = []
        for bits in map(int, self.given.budgets.split(",")):
            plans = [self.drawn(n, w, calibration) for n, w in self.plans(bits).items()]
            budgets.append({"bits": bits, "plans": plans, "pairs": pairs(plans)})
        said = [(p["predicted"], p["typical"]) for b in budgets for p in b["plans"]]
        return {
            "kind": self.kind,
            "weights": self.subject.depends_on["weights"],
            "layers": list(self.full.sites),
            "calibration": {
                "plans": [[p.cost, p.measured] for p in calibration.plans],
                "coverage": calibration.coverage,
                "factor": calibration.factor,
            },
            "predicted": len(said),
            "covered": sum((p["lo"] or 0.0) <= loss <= (p["hi"] or 0.0) for p, loss in said),
            "budgets": budgets,
        }


def pairs(plans: list[Drawn]) -> list[dict[str, Any]]:
    """What the plan that is claimed about gains over each other, in dB of the loss and in the relative error itself."""
    rivals = {p["plan"]: np.array([p["per_sample"]]) for p in plans}
    claimed = rivals.pop(CLAIMED)[0]
    drawn = [rivals.pop(f"random {n}") for n in range(RANDOM)]
    rivals["random"] = np.concatenate(drawn)
    found = []
    for name, losses in rivals.items():  # [plans, n]
        own = claimed[: losses.shape[1]]
        gain = paired_difference(decibels(losses).mean(0), decibels(own), "lower")
        error = paired_difference(np.sqrt(losses).mean(0), np.sqrt(own), "lower")
        found.append({"against": name, "db": gain.to_json(), "error": error.to_json()})
    return found


def decibels(losses: np.ndarray) -> np.ndarray:
    """10 log10 of losses."""
    return 10 / np.log(10) * logarithms(losses)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every kind."""
    trials = [Trial(kind, given) for kind in given.kinds.split(",")]
    kinds = [trial.result() for trial in trials]
    return {
        "format": 1,
        "model": given.model,
        "method": METHOD,
        "factor": FACTOR,
        "inputs": INPUTS,
        "bits": list(WIDTHS),
        "sampler": trials[0].subject.sampler.to_json(),
        "probes": given.probes,
        "seeds": {
            "table": list(parse_seeds(given.seeds)),
            "calibration": list(CALIBRATION),
            "predictions": [DRAWN_FROM, given.calibrated_on],
            "comparison": [VERIFIED_FROM, given.closest],
        },
        "versions": versions(),
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "kinds": kinds,
    }


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--kinds", default="plain,drifting", help="plain, and kinds of outliers")
    parser.add_argument(
        "--budgets", default="4,5,6", help="uniform bits whose bytes are the budget"
    )
    parser.add_argument(
        "--seeds",
        default="0-127",
        help="of the table that is claimed about; others have 32 of them",
    )
    parser.add_argument("--calibrated-on", type=int, default=16, help="samples of the calibration")
    parser.add_argument(
        "--closest",
        type=int,
        default=512,
        help="samples of the closest plans; others have 64 of them",
    )
    parser.add_argument("--calibrate", type=int, default=16, help="plans to calibrate with")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    return written("plans", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
