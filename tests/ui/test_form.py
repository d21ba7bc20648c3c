"""Tests of the form of the Paint tab: sizes, expected times, groups of options, and the pair painted in one click."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from styler import library
from styler.errors import OptionError
from styler.options import Options, format_estimate, list_options
from ui import controls, layout, render
from ui.handlers import PaintHandlers
from ui.layout import PageLayout
from ui.session import Upload
from ui.studio import Studio


def build_page(defaults: Options) -> PageLayout:
    with gr.Blocks():
        return layout.build_layout(defaults)[0]


@pytest.fixture
def paint_tab(use_tiny: None) -> Iterator[PaintHandlers]:
    studio = Studio(Options(first_size=64, iterations=9))
    yield PaintHandlers(studio, build_page(studio.options))
    studio.close()


@pytest.mark.parametrize(
    ("size", "choice"),
    [(512, "512"), (1024, "1024"), (2048, "2048"), (700, "own"), (64, "own"), (8192, "own"), ("original", "own")],
)
def test_every_size_of_the_server_is_chosen_at_first(size: Any, choice: str) -> None:
    page = build_page(Options(size=size))
    assert page.sizes.value == choice
    assert choice in [value for _, value in page.sizes.choices]
    values = [page.options[name].value for name in controls.PAGE_OPTIONS]
    assert controls.options_from_values(values) == Options(size=size)


def test_a_preset_or_look_leaves_the_size_and_the_strokes_being_typed() -> None:
    for kind in controls.OPTION_BUNDLES:
        assert not {"size", "seed", kind} & {*controls.list_bundle_options(kind)}
    assert "strength" not in controls.list_bundle_options("preset")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "about 1 s"),
        (6.4, "about 6 s"),
        (9.7, "about 10 s"),
        (31, "about 30 s"),
        (57.4, "about 55 s"),
        (58, "about 1 min"),
        (100, "about 2 min"),
        (570, "about 10 min"),
        (1330, "about 20 min"),
        (3500, "about 1 h"),
        (4100, "about 1 h 10 min"),
        (200_000, "about 56 h"),
    ],
)
def test_an_expected_time_is_rounded(seconds: float, text: str) -> None:
    assert format_estimate(seconds) == text


def test_times_are_shown_below_their_presets_and_read_aloud() -> None:
    shown = render.render_times({"fine": 120, "draft": 6, "standard": None})
    assert '[value="draft"]) { --time: "about 6 s"; }' in shown
    assert "standard" not in shown
    assert shown.endswith("<p>Expected time: draft about 6 s, fine about 2 min</p>")
    assert render.render_times({}) == render.render_times({"draft": None, "fine": float("inf")}) == ""
    assert "script" not in render.render_times({"</style><script>": 6})


def test_advanced_options_are_grouped_as_in_the_help() -> None:
    groups = controls.group_options(controls.ADVANCED_OPTIONS)
    assert [*groups] == ["Picture", "Print", "Effort", "Objective"]
    order = [*list_options()]
    for group, names in groups.items():
        assert names == sorted(names, key=order.index)
        assert {list_options()[name].group for name in names} == {group}
    assert tuple(name for names in groups.values() for name in names) == controls.ADVANCED_OPTIONS


def test_an_explanation_hides_the_flag_until_hover() -> None:
    assert controls.make_explanation("seed") == ("Random seed; each seed gives a variant. *0 to 4294967295; `--seed`.*")
    visible, hidden = controls.make_explanation("look").split(" *")
    assert "--" not in visible
    assert "oil: thick, smooth strokes" in hidden


def test_a_size_that_is_none_is_explained_with_the_papers() -> None:
    with pytest.raises(OptionError, match="for the long side, or 'original', or a paper such as A2 or 50x70cm"):
        controls.parse_size("banana")
    info = controls.make_size_choice().info
    assert "`--size`" in str(info)
    assert "a paper such as A2" in str(info)


def test_the_invitation_is_painted_as_a_draft_in_place_of_what_was_chosen(paint_tab: PaintHandlers) -> None:
    page, session = paint_tab.layout, paint_tab.studio.sessions.get("someone")
    values = controls.values_from_options(Options(size=64, first_size=64, strength=70, iterations=50))
    changes = paint_tab.show_sample(session, *values)
    photo, painting = render.INVITATION_PAIR
    assert (changes[page.content], changes[page.sample], changes[page.style]) == (None, photo, painting)
    assert (changes[page.own_styles], changes[page.mixed_styles]) == (None, [])
    assert "Your photo, bridge.jpg" in changes[page.stage]
    assert [changes[slider]["visible"] for slider in page.style_weights] == [False] * 4
    assert changes[page.options["preset"]] == "draft"
    assert page.options["strength"] not in changes
    request = paint_tab.request_sample(session, *values)
    assert request.content == Upload.from_path(library.list_contents()[photo])
    assert request.styles == (Upload.from_path(library.list_styles()[painting]),)
    assert request.options == Options.of(preset="draft", size=64, first_size=64, strength=70)
    for name in controls.list_bundle_options("preset"):
        assert changes[page.options[name]] == getattr(request.options, name)
    *_, last = paint_tab.paint(paint_tab.request_sample, session, *values)
    assert "Done." in last[page.status]
    assert session.pictures[0].record["options"]["preset"] == "draft"
    with pytest.raises(OptionError, match="size is 12"):
        paint_tab.request_sample(session, *["12" if value == "64" else value for value in values])
