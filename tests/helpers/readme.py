"""The documentation as the tests read it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
BATCH_README = ROOT / "styler" / "batch" / "README.md"
UI_README = ROOT / "ui" / "README.md"
BENCH_README = ROOT / "tests" / "bench" / "README.md"

FENCE = r"^```(\w*)\n(.*?)^```$"


def blocks(language: str, path: Path = README) -> list[str]:
    """Return the fenced blocks of a language, in order; none if the file does not exist."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [code for name, code in re.findall(FENCE, text, re.DOTALL | re.MULTILINE) if name == language]


SERVED = "gradio_client"
"""A Python block with this word needs a running page; the browser tests run it."""
