"""The Batch tab as it is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from styler import library
from styler.options import Options
from ui import controls, show

EMPTY = "Choose photos and paintings: every photo is painted in every one of them."


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
    """Every component of the tab that something happens to."""

    contents: gr.File
    styles: gr.CheckboxGroup
    own: gr.File
    options: Mapping[str, Component]
    paint: gr.Button
    status: gr.HTML
    stop: gr.Button
    archive: gr.DownloadButton
    gallery: gr.Gallery
    rows: gr.HTML
    tick: gr.Timer
    """Once a second, while somebody waits."""


def layout(most_styles: int, style: str) -> Parts:
    """Lay the tab out, inside an open `gr.Tab`."""
    with gr.Row(elem_classes=["sheet"], equal_height=False):
        with gr.Column(scale=0, min_width=340, elem_classes=["choices"]):
            contents = _files("Your photos", 150, "batch-contents")
            styles = gr.CheckboxGroup(
                [*library.list_styles()],
                value=[style],
                label="Paint them like",
                elem_id="batch-style",
                elem_classes=["pictures"],
            )
            own = _files(f"and paintings of your own (up to {most_styles})", 64, "batch-own")
            held = Options()
            options = {name: controls.control(name, getattr(held, name), "batch") for name in controls.BATCH}
            paint = gr.Button("Paint all", variant="primary", size="lg", elem_id="batch-paint", elem_classes=["go"])
        with gr.Column(scale=1, min_width=320, elem_classes=["picture"]):
            status = gr.HTML(show.said(EMPTY), elem_id="batch-status")
            with gr.Row(elem_classes=["actions"]):
                stop = gr.Button("Stop", visible=False, elem_id="batch-stop")
                archive = gr.DownloadButton("Download all", variant="primary", visible=False, elem_id="batch-zip")
            gallery = _gallery()
            rows = gr.HTML("", elem_id="batch-rows")
    made: dict[str, Any] = {"contents": contents, "styles": styles, "own": own, "options": options, "paint": paint}
    seen: dict[str, Any] = {"status": status, "stop": stop, "archive": archive, "gallery": gallery, "rows": rows}
    return Parts(**made, **seen, tick=gr.Timer(1.0, active=False))


def _files(label: str, height: int, name: str) -> gr.File:
    return gr.File(
        label=label,
        file_count="multiple",
        file_types=["image"],
        height=height,
        elem_id=name,
        elem_classes=["drop"],
    )


def _gallery() -> gr.Gallery:
    return gr.Gallery(
        label="Finished pictures",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["fullscreen"],
        visible=False,
        elem_id="batch-gallery",
    )
