"""Methods: what only some methods have, as views of a study's capture and probes.

A view is one file of this folder, `VIEW = View(...)` and

    section(opened, chosen) -> Section

for one study, method and selection; its `kind` names the drawer of `ui/web/methods/KIND.js`. A view that
reads a probe is shown where the study holds that probe of the chosen method and bits; one that reads
the capture (`probe=None`) is always shown and says what it lacks. Writing the files is all it takes.
"""

from __future__ import annotations

from .opened import Opened, Probed, View
from .page import controls, headline, missing, sections, views
from .selection import Selection, select

TITLE = "Methods"

__all__ = [
    "TITLE",
    "Opened",
    "Probed",
    "Selection",
    "View",
    "controls",
    "headline",
    "missing",
    "sections",
    "select",
    "views",
]
