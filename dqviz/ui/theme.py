"""The Gradio theme: neutral surfaces, one accent, fonts that come with Gradio.

Of IBM Plex Sans Gradio ships whole files for weights 400 and 700 only.
"""

from __future__ import annotations

import gradio as gr

_TEAL = gr.themes.Color(
    "#eef8f6",
    "#d5eeea",
    "#addcd5",
    "#7cc4ba",
    "#4cc9b5",
    "#1f8a7d",
    "#0b6b62",
    "#0a5750",
    "#09453f",
    "#08332f",
    "#06211d",
    name="dqviz-teal",
)


def theme() -> gr.themes.Base:
    """Light and dark; custom parts take the same values from dqviz.css."""
    base = gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=(
            gr.themes.LocalFont("IBM Plex Sans", (400, 700)),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", (400, 700)), "ui-monospace", "monospace"),
    )
    return base.set(
        body_background_fill="#f5f6f7",
        body_background_fill_dark="#10161a",
        body_text_color="#17212b",
        body_text_color_dark="#e6ecef",
        body_text_color_subdued="#55626e",
        body_text_color_subdued_dark="#a3b1ba",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#182025",
        background_fill_secondary="#eef1f3",
        background_fill_secondary_dark="#10161a",
        block_background_fill="#ffffff",
        block_background_fill_dark="#182025",
        border_color_primary="#d9dfe4",
        border_color_primary_dark="#2e3940",
        input_background_fill="#ffffff",
        input_background_fill_dark="#12191d",
        input_border_color="#d9dfe4",
        input_border_color_dark="#2e3940",
        block_info_text_color="#55626e",
        block_info_text_color_dark="#a3b1ba",
    )
