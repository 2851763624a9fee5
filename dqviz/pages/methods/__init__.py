"""Methods: what only some methods have, as views of a study's capture and probes.

A view is one file of this folder, `VIEW = View(...)` and

    section(opened, chosen) -> Section

for one study, method and selection; its `kind` names the drawer of `ui/web/methods/KIND.js`. A view that
reads a probe is shown where the study holds that probe of the chosen method and bits; one that reads
the capture (`probe=None`) is always shown and says what it lacks; one that reads a learning (`learned=KEY`)
is shown of methods that learn, where their measures have that key. Writing the files is all it takes.
"""

from __future__ import annotations

from .learned import Learned
from .opened import Opened, Probed, View
from .page import controls, headline, missing, sections, views, views_of
from .selection import Selection, select

TITLE = "Methods"

__all__ = [
    "TITLE",
    "Learned",
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
    "views_of",
]
