"""The README as tests read it."""

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "README.md"
SERVED = "gradio_client"


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
