"""Plans that do not fit the model, or the rest of the command line."""

from __future__ import annotations

from typing import Any

from tests.dqviz.spoiled import Case, Place


def unknown_site(place: Place) -> list[str]:
    def rename(plan: dict[str, Any]) -> None:
        sites = plan["sites"]
        sites["transformer_blocks.0.attn1.to_queue"] = sites.pop("transformer_blocks.0.attn1.to_q")

    return place.compare("--plan", place.plan(rename))


def other_models_plan(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: plan.update(model="0123456789abcdef")))


def plan_is_not_json(place: Place) -> list[str]:
    file = place.tmp / "plan.json"
    file.write_text("w4a8 everywhere, please")
    return place.compare("--plan", str(file))


def shape_of_a_group(place: Place) -> list[str]:
    def regroup(plan: dict[str, Any]) -> None:
        weight = plan["sites"]["transformer_blocks.0.attn1.to_q"]["weight"]
        weight.update(granularity="group", group_size=48)

    return place.compare("--plan", place.plan(regroup))


def plan_and_bits(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--bits", "w4a8")


def plan_and_windows(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--windows", "2")


def plan_and_groups_of_inputs(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--group-size", "32")


CASES: dict[str, Case] = {
    "unknown site in a plan": (
        unknown_site,
        ("transformer_blocks.0.attn1.to_queue", "transformer_blocks.0.attn1.to_q"),
    ),
    "plan of another model": (other_models_plan, ("0123456789abcdef", "make one")),
    "plan that is not JSON": (plan_is_not_json, ("plan.json", "JSON")),
    "plan file absent": (
        lambda p: p.compare("--plan", "/nowhere/plan.json"),
        ("/nowhere/plan.json", "no such file"),
    ),
    "plan and bits": (plan_and_bits, ("--plan", "leave --bits out")),
    "plan and windows": (plan_and_windows, ("--plan", "leave --windows out")),
    "plan and group size": (plan_and_groups_of_inputs, ("--plan", "leave --group-size out")),
    "shape a group cannot hold": (shape_of_a_group, ("48", "transformer_blocks.0.attn1.to_q")),
    "group size from the command line": (
        lambda p: p.compare("--group-size", "48"),
        ("48", "64"),
    ),
}
