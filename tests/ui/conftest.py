"""Fixtures of the tests of the page: its layout, and the session of a visitor."""

import gradio as gr
import pytest

from ui import layout
from ui.layout import PageLayout
from ui.session import Session
from ui.studio import Studio


@pytest.fixture(scope="module")
def page() -> PageLayout:
    with gr.Blocks():
        return layout.build_layout()[0]


@pytest.fixture
def session(studio: Studio) -> Session:
    return studio.sessions.get("someone")
