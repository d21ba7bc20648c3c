"""The two kinds of events: heavy ones share the painter and wait for their turn, light ones never wait."""

from typing import Any

from ui.line import PAINTER

HEAVY: dict[str, Any] = {
    "concurrency_id": PAINTER,
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
}
LIGHT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
