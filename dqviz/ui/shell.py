"""The frame around the pages: top bar, routes, one Blocks for all of them."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from ..pages import activations as activations_page
from ..pages import compare as compare_page
from ..pages import methods as methods_page
from ..pages import precision as precision_page
from ..pages import runs as runs_page
from ..pages import tour as tour_page
from . import activations, compare, components, methods, precision, runs, tour

MOON = '<svg width="16" height="16" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.6"/><path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor"/></svg>'


@dataclass(frozen=True)
class Route:
    """A page of the app."""

    title: str
    path: str  # "" for the first page
    build: Callable[[compare.Bench], None]


ROUTES = (
    Route(compare_page.TITLE, "", compare.build),
    Route(activations_page.TITLE, "activations", activations.build),
    Route(precision_page.TITLE, "precision", precision.build),
    Route(methods_page.TITLE, "methods", methods.build),
    Route(runs_page.TITLE, "runs", runs.build),
    Route(tour_page.TITLE, "tour", tour.build),
)


def build(bench: compare.Bench) -> gr.Blocks:
    """All pages of the app."""
    first, *others = ROUTES
    with gr.Blocks(title="DQ-Viz", analytics_enabled=False, fill_width=True) as blocks:
        components.frame(top_bar(first), "dq-top")
        first.build(bench)
    for route in others:
        with blocks.route(route.title, route.path, show_in_navbar=False):
            components.frame(top_bar(route), f"dq-top-{route.path}")
            route.build(bench)
    return blocks


def top_bar(here: Route) -> str:
    """Name, links to the other pages, and the switch between light and dark."""
    links = "".join(
        f'<a href="./{r.path}"{" aria-current=page" if r is here else ""}>{html.escape(r.title)}</a>'
        for r in ROUTES
    )
    nav = f'<nav aria-label="Pages">{links}</nav>' if len(ROUTES) > 1 else ""
    return (
        '<header class="dq-top"><div class="dq-brand"><h1><span class="dq-mark">DQ</span>-Viz</h1>'
        "<p>What quantization does to a Diffusion Transformer</p></div>"
        f'{nav}<span class="dq-space"></span>'
        f'<button type="button" class="dq-theme" aria-label="Dark mode" aria-pressed="false">{MOON}</button></header>'
    )
