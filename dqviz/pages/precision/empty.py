"""The page without a table: what one is, and what to run."""

from __future__ import annotations

from ..view import Section

COMMAND = "dqviz sensitivity dit-emoji --bits 3,4,6,8,16"

WHAT = "A sweep rounds one layer at a time, in one window of steps, and says what that costs the picture."


def empty(problem: str = "", command: str = COMMAND) -> Section:
    """Without a table of sensitivities."""
    return {
        "kind": "empty",
        "title": "See which layers can do with fewer bits",
        "text": f"{problem} {WHAT}".strip(),
        "steps": [
            {"title": "Measure", "text": "One number for every layer and window, beside the noise floor."},
            {"title": "Choose", "text": "Set bits by hand, or let a solver choose them within budgets."},
            {"title": "Verify", "text": "Draw the plan, and see what was measured beside what was predicted."},
        ],
        "command": command,
    }  # fmt: skip
