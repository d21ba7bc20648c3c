"""The page as it is laid out: every component by name, and nothing that happens."""

from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from styler import library
from styler.options import Options
from ui import controls, render
from ui.session import Upload

MAX_STYLES = 4
INVITATION_SIZE = (640, 469)
"""Width and height of the picture that invites."""
DEFAULT_STYLE = "starry-night"
EMPTY_STATUS = "Choose a photo and a painting, then watch one become the other."


def read_upload(payload: Any) -> Upload | None:
    """What Gradio says of an upload, without anybody looking into the file."""
    if payload is None or not payload.path:
        return None
    return Upload(Path(payload.path), payload.orig_name or Path(payload.path).name)


PHOTO: type[gr.Image] = ABCMeta.__new__(  # Gradio's own metaclass would write a stub beside this file
    type(gr.Image),
    "Photo",
    (gr.Image,),
    {
        "__module__": __name__,
        "__doc__": "A picture that is uploaded, and handed over as it came: Gradio's own would look into it here.",
        "is_template": True,
        "preprocess": lambda _self, payload: read_upload(payload),
    },
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PageLayout:
    """Every component that something happens to."""

    content: gr.Image
    sample: gr.Radio
    style: gr.Radio
    credit: gr.HTML
    own: gr.File
    own_shown: gr.HTML
    also: gr.CheckboxGroup
    weights: list[gr.Slider]
    options: Mapping[str, Component]
    source: gr.File
    paint: gr.Button
    stage: gr.HTML
    slider: gr.ImageSlider
    status: gr.HTML
    running: gr.Row
    keep: gr.Button
    discard: gr.Button
    done: gr.Row
    png: gr.DownloadButton
    jpeg: gr.DownloadButton
    deeper: gr.Button
    deep: Mapping[str, gr.DownloadButton]
    """By ending."""
    onward: gr.Button
    again: gr.Button
    used: gr.HTML
    history: gr.Gallery
    chart: gr.Accordion
    losses: gr.HTML
    tick: gr.Timer
    """Once a second, while somebody waits."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchLayout:
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


def build_layout() -> tuple[PageLayout, BatchLayout]:
    """Lay the page out, inside open `gr.Blocks`."""
    gr.HTML('<h1 class="name">styler</h1>', elem_id="head")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Paint"), gr.Row(elem_id="page", elem_classes=["sheet"], equal_height=False):
            with gr.Column(scale=0, min_width=340, elem_id="choices", elem_classes=["choices"]):
                chosen = _build_choices()
            with gr.Column(scale=1, min_width=320, elem_id="picture", elem_classes=["picture"]):
                made = _build_picture()
        with gr.Tab("Batch"):
            batch = build_batch_layout(MAX_STYLES, DEFAULT_STYLE)
        with gr.Tab("About"):
            gr.HTML(render.render_about(), elem_id="about")
    return PageLayout(**chosen, **made, tick=gr.Timer(1.0, active=False)), batch


def _build_choices() -> dict[str, Any]:
    """The left column: what to paint, like what, and how."""
    content = PHOTO(
        label="Your photo",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        height=190,
        elem_id="content",
        placeholder="Drop a photo, paste one, or click to choose",
    )
    sample = gr.Radio([*library.list_contents()], label="or one of ours", elem_id="sample", elem_classes=["pictures"])
    style = gr.Radio(
        [*library.list_styles()], value=DEFAULT_STYLE, label="Paint it like", elem_id="style", elem_classes=["pictures"]
    )
    credit = gr.HTML(render.render_credit([library.list_styles()[DEFAULT_STYLE].name]), elem_id="credit")
    own = gr.File(
        label=f"or a painting of your own (up to {MAX_STYLES})",
        file_count="multiple",
        file_types=["image"],
        height=64,
        elem_id="own",
        elem_classes=["drop"],
    )
    own_shown = gr.HTML("", elem_id="own-shown")
    with gr.Accordion("Mix it with others", open=False, visible=len(library.list_styles()) > 1, elem_id="mix"):
        also = gr.CheckboxGroup(
            [*library.list_styles()],
            label="Others to mix in",
            show_label=False,
            elem_id="also",
            elem_classes=["pictures"],
        )
    weights = [
        gr.Slider(0, 4, value=1, step=0.1, buttons=[], label=f"Painting {index + 1}", visible=False)
        for index in range(MAX_STYLES)
    ]
    held = Options()
    options = {name: controls.make_control(name, getattr(held, name)) for name in controls.MAIN_OPTIONS}
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        source = gr.File(
            label="Settings from a picture made by styler",
            file_types=["image"],
            height=64,
            elem_id="source",
            elem_classes=["drop"],
        )
        options |= {name: controls.make_control(name, getattr(held, name)) for name in controls.ADVANCED_OPTIONS}
    paint = gr.Button("Paint", variant="primary", size="lg", elem_id="paint", elem_classes=["go"])
    names = {"content": content, "sample": sample, "style": style, "credit": credit, "own": own, "also": also}
    return {**names, "own_shown": own_shown, "weights": weights, "options": options, "source": source, "paint": paint}


def _build_picture() -> dict[str, Any]:
    """The right column: the picture, where it stands, what to do with it, and what was made before."""
    made: dict[str, Any] = {"stage": gr.HTML(render_invitation(), elem_id="stage")}
    made["slider"] = gr.ImageSlider(
        label="Before and after",
        type="filepath",
        image_mode=None,
        buttons=["fullscreen"],
        visible=False,
        interactive=False,
        show_label=False,
        max_height=2000,
        elem_id="slider",
    )
    made["status"] = gr.HTML(render.render_message(EMPTY_STATUS), elem_id="status")
    with gr.Row(visible=False, elem_id="running", elem_classes=["actions"]) as made["running"]:
        made["keep"] = gr.Button("Stop and keep", variant="primary", elem_id="keep")
        made["discard"] = gr.Button("Discard", elem_id="discard")
    with gr.Row(visible=False, elem_id="done", elem_classes=["actions"]) as made["done"]:
        made["png"] = gr.DownloadButton("Download PNG", variant="primary", elem_id="png")
        made["jpeg"] = gr.DownloadButton("JPEG", elem_id="jpeg")
        made["deeper"] = gr.Button("16 bit …", elem_id="deeper")
        made["deep"] = {
            kind: gr.DownloadButton(f"16-bit {kind.upper()}", visible=False, elem_id=f"deep-{kind}")
            for kind in ("png", "tiff")
        }
        made["onward"] = gr.Button("Continue", elem_id="onward")
        made["again"] = gr.Button("Try again", elem_id="again")
    made["used"] = gr.HTML("", elem_id="used")
    made["history"] = gr.Gallery(
        label="This visit's pictures",
        columns=8,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_id="history",
    )
    with gr.Accordion("Losses", open=False, visible=False, elem_id="chart") as made["chart"]:
        made["losses"] = gr.HTML(render.render_losses(()), elem_id="losses")
    return made


@cache
def render_invitation() -> str:
    """What stands in the frame before anything is chosen: a bundled pair, painted."""
    picture = Path(__file__).parent / "invitation.jpg"
    source = render.encode_file_url(picture, render.LIVE_SIDE)
    return render.render_frame(
        source, *INVITATION_SIZE, "A photo of a bridge, painted like The Starry Night", "invitation"
    )


@cache
def make_pictures_css() -> str:
    """The bundled pictures as the faces of their buttons."""
    rules = []
    for kinds, found in (
        (["sample"], library.list_contents()),
        (["style", "also", "batch-style"], library.list_styles()),
    ):
        for index, path in enumerate(found.values(), start=1):
            faces = ", ".join(f"#{kind} label:nth-of-type({index})" for kind in kinds)
            rules.append(f'{faces} {{ background-image: url("{render.encode_file_url(path)}"); }}')
    return "\n".join(rules)


EMPTY_BATCH_STATUS = "Choose photos and paintings: every photo is painted in every one of them."


def build_batch_layout(most_styles: int, style: str) -> BatchLayout:
    """Lay the tab out, inside an open `gr.Tab`."""
    with gr.Row(elem_classes=["sheet"], equal_height=False):
        with gr.Column(scale=0, min_width=340, elem_classes=["choices"]):
            contents = _build_files("Your photos", 150, "batch-contents")
            styles = gr.CheckboxGroup(
                [*library.list_styles()],
                value=[style],
                label="Paint them like",
                elem_id="batch-style",
                elem_classes=["pictures"],
            )
            own = _build_files(f"and paintings of your own (up to {most_styles})", 64, "batch-own")
            held = Options()
            options = {
                name: controls.make_control(name, getattr(held, name), "batch") for name in controls.BATCH_OPTIONS
            }
            paint = gr.Button("Paint all", variant="primary", size="lg", elem_id="batch-paint", elem_classes=["go"])
        with gr.Column(scale=1, min_width=320, elem_classes=["picture"]):
            status = gr.HTML(render.render_message(EMPTY_BATCH_STATUS), elem_id="batch-status")
            with gr.Row(elem_classes=["actions"]):
                stop = gr.Button("Stop", visible=False, elem_id="batch-stop")
                archive = gr.DownloadButton("Download all", variant="primary", visible=False, elem_id="batch-zip")
            gallery = _build_gallery()
            rows = gr.HTML("", elem_id="batch-rows")
    made: dict[str, Any] = {"contents": contents, "styles": styles, "own": own, "options": options, "paint": paint}
    seen: dict[str, Any] = {"status": status, "stop": stop, "archive": archive, "gallery": gallery, "rows": rows}
    return BatchLayout(**made, **seen, tick=gr.Timer(1.0, active=False))


def _build_files(label: str, height: int, name: str) -> gr.File:
    return gr.File(
        label=label,
        file_count="multiple",
        file_types=["image"],
        height=height,
        elem_id=name,
        elem_classes=["drop"],
    )


def _build_gallery() -> gr.Gallery:
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
