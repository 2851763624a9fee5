"""One HTML file out of the app's scripts, its style, plotly.js and a `View`: no request to anywhere.

Browsers load no modules from `file://`; so each module becomes a data URL under a name of its own,
which an import map tells. plotly.js is carried compressed and unpacked when a figure is drawn.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from functools import lru_cache
from html import escape
from pathlib import Path

from ..pages.view import View
from ..plots.theme import vendor_folder

HERE = Path(__file__).parent
WEB = HERE.parent / "ui" / "web"
_IMPORT = re.compile(r'(?<=from )"\./([\w-]+\.js)"')


def bundled(view: View, title: str) -> str:
    """The page as text; everything that comes from a study is escaped or carried as JSON."""
    parts = {
        "title": escape(title),
        "style": style(),
        "view": view.to_json().replace("<", "\\u003c"),  # no end of the script inside
        "plotly": plotly(),
        "modules": json.dumps({"imports": modules("view.js")}),
        "start": _read(HERE / "start.js"),
    }
    page = _read(HERE / "page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def modules(entry: str) -> dict[str, str]:
    """The module of that name and all that it imports, as data URLs by the names they import."""
    found: dict[str, str] = {}
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        if f"dqviz/{name}" in found:
            continue
        source = _read(WEB / name)
        wanted += _IMPORT.findall(source)
        text = _IMPORT.sub(r'"dqviz/\1"', source)
        code = base64.b64encode(text.encode()).decode()
        found[f"dqviz/{name}"] = f"data:text/javascript;base64,{code}"
    return found


def style() -> str:
    """The app's style sheets, and what Gradio adds to them in the app."""
    sheets = [*sorted(WEB.glob("*.css")), HERE / "page.css"]
    return "\n".join(_read(sheet) for sheet in sheets).replace("</", "<\\/")


@lru_cache(maxsize=1)
def plotly() -> str:
    """plotly.js of the installed package: gzip, base64."""
    script = (vendor_folder() / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")
