"""The pictures that go in: found by name, read within limits, and read quietly.

Its flags come as one group, so that a verb takes them by one argument.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from styler.cli import streams
from styler.cli.flags import OUTPUT
from styler.errors import ImageError, UsageError

if TYPE_CHECKING:
    from styler.images import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How pictures are read."""

    background: Annotated[
        str,
        Parameter(
            name="--background",
            group=OUTPUT,
            metavar="COLOR",
            help="what is painted where CONTENT or STYLE is transparent: a name or #rrggbb (default white)",
        ),
    ] = "white"
    max_pixels: Annotated[
        str,
        Parameter(
            name="--max-pixels",
            group=OUTPUT,
            metavar="N",
            help="refuse pictures of more pixels, such as 250000000 or 250M (default 250M)",
        ),
    ] = "250M"


READING = Reading()
SECONDS, FIXED_BYTES, BYTES_A_PIXEL = 600.0, 1_000_000_000, 40
"""What a picture of somebody's own may take to be decoded apart, so that nothing that hangs holds up a batch."""


def located(name: str, find: Callable[[str], Path], bundled: Mapping[str, Path], kind: str) -> Path:
    """The file that a name stands for.

    Raises:
        ImageError: there is neither a file nor a bundled picture of that name.
    """
    if name == streams.STREAM:
        return Path(name)
    if not name:
        raise ImageError("The name of a picture is empty; name a file, or one that comes with styler.")
    try:
        path = find(name)
    except OSError:  # nobody can look whether it is there; who reads it is told why
        return Path(name)
    if os.path.lexists(path):
        return path
    from styler.errors import quote_name

    close = difflib.get_close_matches(name, bundled, 1)
    hint = f"did you mean '{close[0]}'? The" if close else "the"
    raise ImageError(
        f"Cannot read {quote_name(name)}: there is no such file; {hint} {kind} that come with styler are "
        f"{', '.join(bundled)}."
    )


def reader(reading: Reading) -> "Callable[[Path], Picture]":
    """What reads one picture.

    Raises:
        UsageError: there is no such colour or number.
    """
    background, limit = _colour(reading.background), _count(reading.max_pixels)

    def read(path: Path) -> "Picture":
        from styler import images

        given, name = (path, None) if str(path) != streams.STREAM else (streams.source(), streams.INPUT)
        with _muted():
            return images.read_image(given, name=name, background=background, max_pixels=limit)

    return read


def anywhere(reading: Reading) -> "Callable[[str], Picture]":
    """What reads a picture at a path or a URL."""
    near, decode = reader(reading), decoder(reading)

    def read(path: str) -> "Picture":
        from styler.batch import discover

        if not discover.is_url(path):
            return near(Path(path))
        data = discover.load_url(path)
        with _muted():
            return decode(data, name=path)

    return read


def decoder(reading: Reading) -> "Callable[..., Picture]":
    """What decodes bytes, called `name`, in whatever process it is sent to."""
    from styler import images

    return partial(images.read_image, background=_colour(reading.background), max_pixels=_count(reading.max_pixels))


def apart(reading: Reading, ends: ExitStack) -> "tuple[Callable[[Path], Picture], Callable[..., Picture]]":
    """What reads files, and what decodes bytes, in a process of their own: while painting goes on in threads.

    What decoders written in C print about damage goes nowhere, and one that crashes costs a picture.

    Args:
        reading: how pictures are read.
        ends: closed when none is to be read any more.
    """
    from styler import images
    from styler.images.child import Decoder

    background, limit = _colour(reading.background), _count(reading.max_pixels)
    child = ends.enter_context(Decoder(SECONDS, FIXED_BYTES + BYTES_A_PIXEL * limit))

    def decode(data: bytes, *, name: str) -> "Picture":
        return child.read(data, name=name, background=background, max_pixels=limit)

    def read(path: Path) -> "Picture":
        return decode(images.fetch_image_bytes(path), name=str(path))

    return read, decode


def _colour(text: str) -> tuple[float, float, float]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as problem:
        raise UsageError(f"background is {text}; it can be a name such as white, or #rrggbb.") from problem
    return red / 255, green / 255, blue / 255


def _count(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})(M?)", text.strip(), re.ASCII)
    if not found or not int(found[1]):
        raise UsageError(f"max_pixels is {text}; it can be a whole number above 0, or one with M for millions.")
    return int(found[1]) * (1_000_000 if found[2] else 1)


@contextmanager
def _muted() -> Iterator[None]:
    """Drop what decoders written in C print about damage; the one sentence on it is ours."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr to keep clean
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - no path of ours
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
