"""The layout of the page: every component, by name. Their events are in `handlers` and `app`."""

from abc import ABCMeta
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from styler import library
from styler.options import Options
from ui import controls, render
from ui.areas import choice, drawing
from ui.controls import MAX_STYLES, MAX_WEIGHT
from ui.session import Upload

TABS = ("paint", "batch", "about")
DEFAULT_STYLE = "starry-night"
EMPTY_STATUS = "Choose a photo and a painting, then watch one become the other."
EMPTY_BATCH_STATUS = "Choose photos and paintings: every photo is painted in every style."


def read_upload(payload: Any) -> Upload | None:
    """Return an upload without opening the file."""
    if payload is None or not payload.path:
        return None
    return Upload(Path(payload.path), payload.orig_name or Path(payload.path).name)


def read_uploads(payload: Any) -> list[Upload]:
    """Return uploads without opening the files."""
    files = payload if isinstance(payload, list) else getattr(payload, "root", [payload])
    return [upload for file in files if (upload := read_upload(file))]


def write_upload(upload: Upload | None) -> ImageData | None:
    """Return what the page is sent to show an upload again, under the name that its owner gave it."""
    return ImageData(path=str(upload.path), orig_name=upload.name) if upload else None


def _derive_component(name: str, base: type[Any], read: Callable[[Any], Any], doc: str, **members: Any) -> type[Any]:
    """Return a component whose value is what `read` makes of the upload; Gradio itself would open or check the file."""
    members = {
        **members,
        "__module__": __name__,
        "__doc__": doc,
        "is_template": True,
        "preprocess": lambda _self, data: read(data),
    }
    return ABCMeta.__new__(
        type(base), name, (base,), members
    )  # Gradio's own metaclass would write a stub next to this file


PHOTO: type[gr.Image] = _derive_component(
    *("Photo", gr.Image, read_upload, "An image component that passes the file on."),
    postprocess=lambda _self, upload: write_upload(upload),
)
FILES: type[gr.File] = _derive_component("Files", gr.File, read_uploads, "A file component that passes the files on.")


class PageLayout:
    """The components of the Paint tab; create it inside an open `gr.Tab`."""

    def __init__(self, defaults: Options = controls.DEFAULT_OPTIONS) -> None:
        self.defaults = defaults
        with gr.Row(elem_id="page", elem_classes=["sheet"], equal_height=False):
            with gr.Column(scale=0, min_width=340, elem_id="choices", elem_classes=["choices"]):
                self._build_choices()
            with gr.Column(scale=1, min_width=320, elem_id="picture", elem_classes=["picture"]):
                self._build_picture()

    def _build_choices(self) -> None:
        """Create the left column: the photo, the paintings and the options."""
        self.content = PHOTO(
            label="Your photo",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            buttons=[],
            height=190,
            elem_id="content",
            placeholder="Drop a photo, paste one, or click to choose",
        )
        self.refusal = gr.Textbox(visible="hidden")
        self.refuse_button = gr.Button(visible="hidden", elem_id="refuse")
        """Clicked by the script of the page when it refuses a file before it is sent; `refusal` is its reason."""
        samples, paintings = [*library.list_contents()], [*library.list_styles()]
        self.sample = gr.Radio(samples, label="or a sample photo", elem_id="sample", elem_classes=["pictures"])
        self.style = gr.Radio(
            paintings, value=DEFAULT_STYLE, label="Paint it like", elem_id="style", elem_classes=["pictures"]
        )
        self.tiles = [gr.HTML("", visible="hidden", elem_id=f"tile-{name}") for name in paintings]
        """Style rules that show the previews on the buttons of the bundled paintings."""
        self.wall_note = gr.HTML("", elem_id="wall-note")
        self.refresh_button = gr.Button(visible="hidden", elem_id="refresh")
        """Clicked by the script of the page when the settings have changed: the previews and times follow them."""
        self.tile_choice = gr.Textbox(visible="hidden")
        self.tile_button = gr.Button(visible="hidden", elem_id="show-preview")
        """Clicked by the script when a tile is; `tile_choice` is `bundled-` or `own-` with its number from 0."""
        credit = render.render_credit([library.list_styles()[DEFAULT_STYLE].name])
        self.credit = gr.HTML(credit, elem_id="credit")
        self.own_styles = _build_files(f"or a painting of your own (up to {MAX_STYLES})", "own-styles")
        self.own_thumbnails = gr.HTML("", elem_id="own-thumbnails")
        with _fold("Mix with other paintings", "mix"):
            self.mixed_styles = gr.CheckboxGroup(
                paintings, label="Paintings to mix in", elem_id="mixed-styles", elem_classes=["pictures"]
            )
        self.style_weights = [
            gr.Slider(
                0, MAX_WEIGHT, value=1, step=0.1, buttons=[], label=f"Weight of painting {index + 1}", visible=False
            )
            for index in range(MAX_STYLES)
        ]
        self._build_region()
        self._build_options()
        self.limit_note = gr.HTML("", elem_id="limit-note")
        """Why the picture would not be painted on this server."""
        self.paint_button = gr.Button("Paint", variant="primary", size="lg", elem_id="paint", elem_classes=["go"])

    def _build_options(self) -> None:
        """Create the controls of the options: the main ones, and in groups those of the Advanced section."""
        preset, *others = controls.MAIN_OPTIONS
        self.options = controls.make_controls([preset], defaults=self.defaults)
        self.times = gr.HTML(render.render_times({}), elem_id="times")
        """The seconds that each preset is expected to take."""
        self.sizes = controls.make_size_choice(defaults=self.defaults)
        self.options |= controls.make_controls(others, defaults=self.defaults)
        self._build_protection()
        with _fold("Advanced", "advanced"):
            self.settings_file = _build_files("Load settings from a picture made by styler", "settings-file", "single")
            for group, names in controls.group_options(controls.ADVANCED_OPTIONS).items():
                gr.HTML(f"<h2>{group}</h2>", elem_classes=["group"])
                self.options |= controls.make_controls(names, defaults=self.defaults, is_explained=True)

    def _build_region(self) -> None:
        """Create the choice of a part of the photo and of another painting for it."""
        with _fold("Another painting for a part", "other"):
            self.region = gr.Radio(
                [(label, name) for name, label in choice.REGIONS.items()],
                value=choice.WHOLE,
                label="Another painting for",
                info="a part of the photo takes another painting than the rest (`--region MASK=STYLE`)",
                elem_id="region",
                elem_classes=["option", "chips"],
                interactive=True,
            )
            self.region_style = gr.Radio(
                [*library.list_styles()], label="Paint it like", elem_id="region-style", elem_classes=["pictures"]
            )
            self.own_region_style = _build_files("or a painting of your own", "own-region-style", "single")

    def _build_protection(self) -> None:
        """Create the choice of what is kept of the photo, and the board on which a visitor draws it."""
        chips, amount, _region = choice.chips_from_options(self.defaults)
        self.protect = gr.CheckboxGroup(
            [(label, name) for name, label in choice.CHIPS.items()],
            value=chips,
            label="Protect",
            info="what is kept as in the photo (`--protect`)",
            elem_id="protect",
            elem_classes=["option", "chips"],
            interactive=True,
        )
        self.area_note = gr.HTML(drawing.render_chips_note(chips), elem_id="area-note")
        self.protect_amount = gr.Slider(
            *(0, 100),
            value=amount,
            step=1,
            buttons=[],
            label="How much of it stays",
            info="100 keeps it as it is, 0 paints it like the rest (`--protect MASK=AMOUNT`)",
            elem_id="protect-amount",
            elem_classes=["option"],
            interactive=True,
        )
        self.draw_button = gr.Button("Draw on the photo…", size="sm", elem_id="draw", elem_classes=["quiet"])
        self.board = gr.HTML("", elem_id="board")
        """The board to draw on; the script opens each new one, and sends the drawing to `drawn`."""
        self.drawn = FILES(file_count="single", visible="hidden", elem_id="drawn")

    def _build_picture(self) -> None:
        """Create the right column: the picture, its status and its files, the history and the losses."""
        self.stage = gr.HTML(render.render_invitation(), elem_id="stage")
        self.sample_button = gr.Button("Paint this", variant="primary", elem_id="paint-sample")
        """Paints the pair of the invitation; the style sheet shows it on the invitation alone."""
        self.repaint_strength = gr.Number(visible="hidden")
        self.repaint_button = gr.Button(visible="hidden", elem_id="repaint")
        """Clicked by the script of the page, which knows the strength that a blend stands for."""
        self.status = gr.HTML(render.render_message(EMPTY_STATUS), elem_id="status")
        with gr.Row(visible=False, elem_id="running", elem_classes=["actions"]) as self.running_row:
            self.stop_button = gr.Button("Stop and keep", variant="primary", elem_id="stop")
            self.discard_button = gr.Button("Discard", elem_id="discard")
            gr.HTML(render.render_tell(), elem_id="telling")
        with gr.Column(visible=False, elem_id="finished") as self.finished_row:
            self._build_finished()
        self.summary = gr.HTML("", elem_id="summary")
        self.history = _build_gallery("Pictures of this session", "history", columns=8, allow_preview=False, buttons=[])
        with gr.Accordion("Losses", open=False, visible=False, elem_id="losses") as self.losses_panel:
            self.losses_plot = gr.LinePlot(
                x="iteration",
                y="log10",
                y_title="log₁₀ of the loss",
                color="term",
                colors_in_legend=[],
                tooltip=["loss"],
                height=260,
                elem_id="losses-plot",
            )
            self.losses_legend = gr.HTML("", elem_id="losses-legend")

    def _build_finished(self) -> None:
        """Create what can be done with a finished picture; the buttons without an attribute belong to the scripts."""
        with gr.Row(elem_classes=["actions"]):
            self.png = gr.DownloadButton("Download PNG", variant="primary", elem_id="png")
            self.continue_button = gr.Button("Continue", elem_id="continue")
            self.retry_button = gr.Button("Try again", elem_id="retry")
        gr.HTML(render.render_tools(), elem_id="tools")
        quiet: dict[str, Any] = {"size": "sm", "elem_classes": ["quiet"]}
        with gr.Row(elem_classes=["actions", "more"]):
            self.jpeg = gr.DownloadButton("JPEG", elem_id="jpeg", **quiet)
            self.deep_button = gr.Button("16-bit…", elem_id="deep", **quiet)
            self.deep_files = {
                suffix: gr.DownloadButton(f"16-bit {suffix.upper()}", visible=False, elem_id=f"deep-{suffix}", **quiet)
                for suffix in ("png", "tiff")
            }
            gr.Button("Copy", elem_id="copy", **quiet)
            gr.Button("Share…", elem_id="share", **quiet)
            gr.Button("Use as the photo", elem_id="reuse", **quiet)


class BatchLayout:
    """The components of the Batch tab; create it inside an open `gr.Tab`."""

    def __init__(self, defaults: Options = controls.DEFAULT_OPTIONS) -> None:
        self.defaults = defaults
        with gr.Row(elem_classes=["sheet"], equal_height=False):
            with gr.Column(scale=0, min_width=340, elem_classes=["choices"]):
                self._build_choices()
            with gr.Column(scale=1, min_width=320, elem_classes=["picture"]):
                self._build_pictures()

    def _build_choices(self) -> None:
        self.contents = _build_files("Your photos", "batch-contents", height=150)
        self.styles = gr.CheckboxGroup(
            [*library.list_styles()],
            value=[DEFAULT_STYLE],
            label="Paint them like",
            elem_id="batch-styles",
            elem_classes=["pictures"],
        )
        self.own_styles = _build_files(f"and paintings of your own (up to {MAX_STYLES})", "batch-own-styles")
        preset, *others = controls.BATCH_OPTIONS
        self.options = controls.make_controls([preset], "batch", self.defaults)
        self.sizes = controls.make_size_choice("batch", self.defaults)
        self.options |= controls.make_controls(others, "batch", self.defaults)
        self.paint_button = gr.Button(
            "Paint all", variant="primary", size="lg", elem_id="batch-paint", elem_classes=["go"]
        )

    def _build_pictures(self) -> None:
        self.status = gr.HTML(render.render_message(EMPTY_BATCH_STATUS), elem_id="batch-status")
        with gr.Row(elem_classes=["actions"]):
            self.stop_button = gr.Button("Stop", visible=False, elem_id="batch-stop")
            self.archive = gr.DownloadButton("Download all", variant="primary", visible=False, elem_id="batch-zip")
        self.gallery = _build_gallery("Finished pictures", "batch-gallery", show_label=False, buttons=["fullscreen"])
        self.rows = gr.HTML("", elem_id="batch-rows")


def build_layout(defaults: Options = controls.DEFAULT_OPTIONS) -> tuple[PageLayout, BatchLayout]:
    """Create all components, inside open `gr.Blocks`, with the controls at the server's defaults.

    What belongs to a tab is not inside it but below all of them, shown or hidden by the style sheet; `_fold` says why.
    """
    gr.HTML(f'<h1 class="name">styler</h1>{render.render_keys()}', elem_id="head")
    with gr.Tabs(elem_id="tabs"):
        for name in TABS:
            gr.Tab(name.capitalize(), elem_id=f"{name}-tab")
    with gr.Column(elem_id="paint-sheet"):
        page = PageLayout(defaults)
    with gr.Column(elem_id="batch-sheet"):
        batch = BatchLayout(defaults)
    with gr.Column(elem_id="about-sheet"):
        gr.HTML(render.render_about(), elem_id="about")
    return page, batch


def _fold(label: str, elem_id: str) -> gr.Column:
    """Create a section that opens and closes, to be filled inside `with`.

    Gradio creates what is in a closed `gr.Accordion` or `gr.Tab` when it is opened, and sets it to its initial values
    once more one frame later, which undoes whatever was entered meanwhile. These controls always exist; the style sheet
    hides them.
    """
    gr.HTML(f"<details><summary>{label}</summary></details>", elem_id=elem_id, elem_classes=["fold"])
    return gr.Column(elem_id=f"{elem_id}-controls", elem_classes=["folded"])


def _build_files(
    label: str, elem_id: str, count: Literal["single", "multiple"] = "multiple", height: int = 64
) -> gr.File:
    return FILES(
        label=label, file_count=count, file_types=["image"], height=height, elem_id=elem_id, elem_classes=["drop"]
    )


def _build_gallery(label: str, elem_id: str, columns: int = 4, **settings: Any) -> gr.Gallery:
    common: dict[str, Any] = {"height": "auto", "object_fit": "contain", "interactive": False, "visible": False}
    return gr.Gallery(label=label, elem_id=elem_id, columns=columns, **common, **settings)


@cache
def make_pictures_css() -> str:
    """Return the style rules that show each bundled picture on its button, and the proportion of each photo."""
    rules = []
    for index, path in enumerate(library.list_contents().values(), start=1):
        with Image.open(path) as picture:
            rules.append(f"#sample label:nth-of-type({index}) {{ --ratio: {picture.width / picture.height:.6f}; }}")
    for elem_ids, pictures in (
        (["sample"], library.list_contents()),
        (["style", "mixed-styles", "batch-styles", "region-style"], library.list_styles()),
    ):
        for index, path in enumerate(pictures.values(), start=1):
            buttons = ", ".join(f"#{elem_id} label:nth-of-type({index})" for elem_id in elem_ids)
            rules.append(f'{buttons} {{ background-image: url("{render.encode_file_url(path)}"); }}')
    return "\n".join(rules)
