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
from ui import about, batch_parts, controls, show
from ui.visits import Upload

MOST_STYLES = 4
INVITED = (640, 469)
"""Width and height of the picture that invites."""
DEFAULT_STYLE = "starry-night"
EMPTY = "Choose a photo and a painting, then watch one become the other."


def upload_of(payload: Any) -> Upload | None:
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
        "preprocess": lambda _self, payload: upload_of(payload),
    },
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Parts:
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


def layout() -> tuple[Parts, batch_parts.Parts]:
    """Lay the page out, inside open `gr.Blocks`."""
    gr.HTML('<h1 class="name">styler</h1>', elem_id="head")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Paint"), gr.Row(elem_id="page", elem_classes=["sheet"], equal_height=False):
            with gr.Column(scale=0, min_width=340, elem_id="choices", elem_classes=["choices"]):
                chosen = _choices()
            with gr.Column(scale=1, min_width=320, elem_id="picture", elem_classes=["picture"]):
                made = _picture()
        with gr.Tab("Batch"):
            batch = batch_parts.layout(MOST_STYLES, DEFAULT_STYLE)
        with gr.Tab("About"):
            gr.HTML(about.page(), elem_id="about")
    return Parts(**chosen, **made, tick=gr.Timer(1.0, active=False)), batch


def _choices() -> dict[str, Any]:
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
    credit = gr.HTML(show.credit([library.list_styles()[DEFAULT_STYLE].name]), elem_id="credit")
    own = gr.File(
        label=f"or a painting of your own (up to {MOST_STYLES})",
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
        for index in range(MOST_STYLES)
    ]
    held = Options()
    options = {name: controls.control(name, getattr(held, name)) for name in controls.MAIN}
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        source = gr.File(
            label="Settings from a picture made by styler",
            file_types=["image"],
            height=64,
            elem_id="source",
            elem_classes=["drop"],
        )
        options |= {name: controls.control(name, getattr(held, name)) for name in controls.ADVANCED}
    paint = gr.Button("Paint", variant="primary", size="lg", elem_id="paint", elem_classes=["go"])
    names = {"content": content, "sample": sample, "style": style, "credit": credit, "own": own, "also": also}
    return {**names, "own_shown": own_shown, "weights": weights, "options": options, "source": source, "paint": paint}


def _picture() -> dict[str, Any]:
    """The right column: the picture, where it stands, what to do with it, and what was made before."""
    made: dict[str, Any] = {"stage": gr.HTML(invitation(), elem_id="stage")}
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
    made["status"] = gr.HTML(show.said(EMPTY), elem_id="status")
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
        made["losses"] = gr.HTML(show.losses(()), elem_id="losses")
    return made


@cache
def invitation() -> str:
    """What stands in the frame before anything is chosen: a bundled pair, painted."""
    picture = Path(__file__).parent / "invitation.jpg"
    source = show.file_address(picture, show.LIVE)
    return show.stage(source, *INVITED, "A photo of a bridge, painted like The Starry Night", "invitation")


@cache
def pictures_css() -> str:
    """The bundled pictures as the faces of their buttons."""
    rules = []
    for kinds, found in (
        (["sample"], library.list_contents()),
        (["style", "also", "batch-style"], library.list_styles()),
    ):
        for index, path in enumerate(found.values(), start=1):
            faces = ", ".join(f"#{kind} label:nth-of-type({index})" for kind in kinds)
            rules.append(f'{faces} {{ background-image: url("{show.file_address(path)}"); }}')
    return "\n".join(rules)
