"""Plans that nobody optimised, from the lowest bits to the highest: what predictions are held against.

    level_n(i) = clip(u_n + 0.25 z_ni, 0, 1),    u_n = (n + 1/2) / N,  z normal

Plan n of N takes, of every set of tied items, the choice at that level between the one that costs most and the one
that costs least. So plans cover the range of costs evenly, and their layers differ. Pins and ties hold.
"""

from __future__ import annotations

import numpy as np

from .decisions import Key, Label, Problem

SPREAD = 0.25


def random_plans(problem: Problem, count: int, seed: int = 0) -> list[dict[Key, Label]]:
    """So many plans; the same seed draws the same ones."""
    rng = np.random.default_rng(seed)
    losses = {item.key: {c.label: c.loss for c in item.choices} for item in problem.items}
    found = []
    for n in range(count):
        chosen: dict[Key, Label] = {}
        for items, labels in problem.sets():
            keys = [item.key for item in items]
            ordered = sorted(labels, key=lambda b: -sum(losses[key][b] for key in keys))
            level = np.clip((n + 0.5) / count + SPREAD * rng.normal(), 0, 1)
            label = ordered[int(np.rint(level * (len(ordered) - 1)))]
            chosen |= dict.fromkeys(keys, label)
        found.append(chosen)
    return found
