"""The flags that say where and how the picture is written, as one group, so that a verb takes them by one argument."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from styler.cli.flags import OUTPUT, PICTURE, FileName

BitDepth = Annotated[
    Literal["8", "16"],
    Parameter(name="--bit-depth", group=OUTPUT, metavar="N", help="8, or 16 for PNG and TIFF (default 8)"),
]
Overwrite = Annotated[
    bool, Parameter(name="--overwrite", group=OUTPUT, negative=(), help="replace the output if it exists")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """Where the picture goes, and in which form."""

    output: Annotated[
        FileName | None,
        Parameter(
            name=("-o", "--output"),
            group=PICTURE,
            metavar="FILE",
            help="where the picture goes: a name that ends in .png, .jpg, .webp, .avif or .tif, a folder, or - for "
            "standard output; {content}, {style}, {seed} and {ext} are filled in (default CONTENT.STYLE.png beside "
            "CONTENT, with a number if that exists)",
        ),
    ] = None
    extension: Annotated[
        Literal["png", "jpg", "jpeg", "webp", "avif", "tif", "tiff"] | None,
        Parameter(
            name="--format",
            group=OUTPUT,
            metavar="NAME",
            help="png, jpg, webp, avif or tif, where the output's name does not say it: in a folder, on standard "
            "output, for {ext} (default png)",
        ),
    ] = None
    bit_depth: BitDepth = "8"
    overwrite: Overwrite = False


WRITING = Writing()
