"""The pages of help: what stands on them besides the flags, and how they are laid out in plain text."""

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

ABOUT = "styler repaints a photo in the manner of a painting, on your own machine."

ROOT = """\
Usage: styler COMMAND ...

Examples:
  styler run photo.jpg starry-night
  styler run photo.jpg painting.jpg --preset fine -o painted.png
  styler run --help"""

RUN = """\
Usage: styler run [OPTIONS] CONTENT STYLE [STYLE ...]

Examples:
  styler run photo.jpg starry-night
  styler run photo.jpg painting.jpg --preset draft --strength 70 -o painted.png
  styler run photo.jpg one.jpg two.jpg --style-weights 2,1 --size original"""

BATCH = """\
Usage: styler batch [OPTIONS] CONTENTS STYLES -o FOLDER

Examples:
  styler batch photos paintings -o painted
  styler batch 'photos/**/*.jpg' starry-night -o painted --preset draft
  styler batch @list.txt paintings -r -o painted --blend --dry-run

CONTENTS and STYLES are each a file, a folder, a pattern in quotes, @list.txt
with a name a line, or the name of a picture that comes with styler. Every
content is painted in every style. The same command goes on where an earlier
one stopped."""

UI = """\
Usage: styler ui [OPTIONS]

Examples:
  styler ui --open
  styler ui --port 8000 --max-upload 50mb
  styler ui --host 0.0.0.0 --auth me:password.txt"""

PRESETS = """\
Usage: styler presets [--json]

Examples:
  styler presets
  styler presets --json
  styler run photo.jpg starry-night --preset draft --look gatys"""

STYLES = """\
Usage: styler styles [--json]

Examples:
  styler styles
  styler styles --json
  styler run astronaut starry-night"""

CONFIG = """\
Usage: styler config [OPTIONS]

Examples:
  styler config
  styler config --preset fine --size 1024
  STYLER_SIZE=1024 styler config --json

A flag beats the picture that 'styler run --from' names, which beats a variable
(STYLER_SIZE, STYLER_KEEP_COLOR ...), which beats styler.toml in the working
folder, which beats styler.toml in your folder of settings. A preset or look
counts a little less than what is set beside it."""

DOCTOR = """\
Usage: styler doctor [--json]

Examples:
  styler doctor
  styler doctor --json
  STYLER_DEVICE=cuda styler doctor"""

COMPLETION = """\
Usage: styler completion [bash|zsh|fish|powershell] [--install]

Examples:
  styler completion --install
  styler completion zsh --install
  styler completion bash > styler.bash"""

CODES = "Exit codes: 0 done, 1 failed or broken, 2 wrong usage, 130 Ctrl-C."
INSPECT = """\
Usage: styler inspect [OPTIONS] FILE

Examples:
  styler inspect photo.painting.png
  styler inspect --json photo.painting.png
  styler run --from photo.painting.png other.jpg painting.jpg"""


EXIT_CODES = """\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 terminated.
Standard output gets the path of the picture and nothing else. The first
Ctrl-C keeps the best picture so far, as NAME.partial.png; the second stops
at once."""

BATCH_CODES = """\
Exit codes: 0 all done, 1 broken off, 2 wrong usage, 3 some or all failed,
4 nothing matched, 130 Ctrl-C, 143 terminated. Standard output gets the path
of every finished picture. The first Ctrl-C drops the picture in work, the
second stops at once; the same command goes on from there."""

WIDEST = 100
"""Columns at most, for lines that are pleasant to read."""
LABELS = 30
"""Columns of the names of the flags."""


def about_run(contents: Iterable[str], styles: Iterable[str]) -> str:
    """What `styler run` does, with the names of the pictures that come with it."""
    return (
        "Paint a photo (CONTENT) in the manner of a painting (STYLE) or several.\n\n"
        f"Photos that come with styler: {', '.join(contents)}.\n"
        f"Paintings that come with styler: {', '.join(styles)}.\n\n"
        "What is not given as a flag may be set in the environment or in a file: see 'styler config --help'."
    )


def panel(console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Print one group of flags or commands in two columns; what cyclopts calls a help formatter."""
    if not panel.entries:
        return
    width = min(WIDEST, options.max_width)
    console.print(f"{panel.title}:")
    for entry in panel.entries:
        console.print("\n".join(_lines(_label(entry), _plain(entry.description), width)))
    console.print()


def _label(entry: "HelpEntry") -> str:
    """`-o, --output FILE`; a long name alone is indented past where the short one would be."""
    if entry.positional_label:
        return "".join(entry.positional_label)
    shorts, longs = [*entry.positive_shorts], [*entry.positive_names]
    indent = "    " if longs and longs[0].startswith("-") and not shorts else ""
    return f"{indent}{', '.join([*shorts, *longs])}" + (f" {entry.metavar}" if entry.metavar else "")


def _lines(label: str, text: str, width: int) -> list[str]:
    """A label and its text beside it; lines of the text that are indented keep their indentation when wrapped."""
    column = min(LABELS, width // 2)
    lines: list[str] = []
    for line in text.split("\n"):
        hang = " " * len(re.match(r"( *\S+  +)?", line)[0])  # type: ignore[index] # it matches the empty string too
        room = max(20, width - column)
        lines += textwrap.wrap(line, room, subsequent_indent=hang, break_on_hyphens=False) or [""]
    head = f"  {label}"
    if len(head) + 2 > column:
        return [head, *(" " * column + line for line in lines)]
    return [head.ljust(column) + lines[0], *(" " * column + line for line in lines[1:])]


def _plain(description: Any) -> str:
    """The text of a description, which cyclopts wraps in renderables of rich."""
    return str(getattr(description, "primary_renderable", description)).rstrip()
