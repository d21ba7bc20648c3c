"""Pictures for the tests of the engine; a module may define others of the same name."""

from typing import Any

import pytest
from made import Pixels
from numpy.typing import NDArray


@pytest.fixture
def content(pixels: Pixels) -> NDArray[Any]:
    return pixels(64, 64, 1)


@pytest.fixture
def style(pixels: Pixels) -> NDArray[Any]:
    return pixels(48, 64, 2)
