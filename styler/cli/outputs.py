"""Where the picture goes: the name nobody has to think of, the refusals before any work, and the last write.

A painting may have taken hours: if it cannot be put where it was meant to go, it is kept somewhere else.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from styler import images
from styler.cli import streams
from styler.cli.writing import Writing
from styler.errors import OptionError, OutputError, UsageError, quote_name
from styler.images.files import fill_template

Encode = Callable[[str], bytes]
"""From the name of a format to the picture's bytes in it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A place for a picture, which has been checked."""

    path: Path | None
    """None is standard output."""
    kind: str
    """The format."""
    made_up: Path | None
    """The name that was made up when none was asked for; `path` is that, or with a number."""
    beside: Path
    """A name for what is kept when the picture itself cannot be, in the same folder where that is possible."""
    overwrite: bool

    @property
    def shown(self) -> str:
        """For a person."""
        return str(self.path or streams.OUTPUT)


def default_name(content: Path, styles: Iterable[Path], extension: str, *, bundled: bool) -> Path:
    """`<content>.<style>.png` beside the content, or in the working folder where the content is no file of one's own.

    A picture that comes with styler is `bundled`; one from standard input is called stdin.
    """
    name = f"{_stem(content)}.{'+'.join(map(_stem, styles))}.{extension}"
    return Path(name) if bundled or str(content) == streams.STREAM else content.parent / name


def filled(asked: str, content: Path, styles: Iterable[Path], seed: int, extension: str) -> str:
    """A name with its `{fields}` filled in; `{{` and `}}` are braces.

    Raises:
        UsageError: there is no such field.
    """
    values = {"content": _stem(content), "style": "+".join(map(_stem, styles)), "seed": str(seed), "ext": extension}

    return fill_template(asked, values, "-o")


def target(
    asked: Writing, content: Path, styles: Sequence[Path], others: Iterable[Path], seed: int, *, bundled: bool
) -> Target:
    """Decide where the picture goes, and refuse, before any work, what cannot be.

    Args:
        asked: what was asked for; in a folder the default name is taken.
        content: the photo.
        styles: the paintings.
        others: files that the output may not be either.
        seed: for the names.
        bundled: whether the photo comes with styler.

    Raises:
        UsageError: it is an input, is there and may not be replaced, or its name and the format contradict each other.
        OptionError: its format has no such bit depth.
        OutputError: it cannot be written.
    """
    extension = asked.extension or "png"
    default = default_name(content, styles, extension, bundled=bundled)
    if asked.output == streams.STREAM:
        path, made_up, kind = None, None, images.find_format(default)
    else:
        name = None if asked.output is None else filled(asked.output, content, styles, seed, extension)
        made_up = default if name is None else Path(name) / default.name if _is_folder(name) else None
        path = Path(name) if name is not None and made_up is None else images.find_free_name(made_up or default)
        kind = check(path, [content, *styles, *others], default, overwrite=asked.overwrite)
        if asked.extension and kind != images.find_format(default):
            raise UsageError(
                f"The name {quote_name(path)} and --format {extension} contradict each other; leave one of them out."
            )
    if int(asked.bit_depth) not in images.FORMATS[kind].depths:
        raise OptionError(
            f"The output {quote_name(path or streams.OUTPUT)} is {images.FORMATS[kind].shown}, which has no "
            f"{asked.bit_depth} bit; choose PNG or TIFF, by a name that ends in .png or .tif or by --format."
        )
    beside = default if path is None or images.is_special(path) else path
    return Target(path, kind, made_up, beside, asked.overwrite)


def check(path: Path, inputs: Iterable[Path], default: Path, *, overwrite: bool) -> str:
    """Refuse an output that is an input, is there already, or cannot be written; return its format.

    That of a device or a pipe, which has no extension, is the default name's.

    Raises:
        UsageError: it is an input, or is there and may not be replaced.
        OutputError: it cannot be written.
    """
    if not path.name:
        raise UsageError("The name of the output is empty; give one with -o.")
    if any(_same(path, given) for given in inputs):
        raise UsageError(f"The output {quote_name(path)} is one of the inputs; give it another name with -o.")
    if _holds(path.is_file) and not overwrite:
        raise UsageError(f"{quote_name(path)} exists already; give another name with -o, or --overwrite.")
    images.check_output(path, overwrite=overwrite)
    try:
        return images.find_format(path)
    except OutputError:  # a device or a pipe: nothing else passes the check without a known extension
        return images.find_format(default)


def save(place: Target, encode: Encode) -> Path | None:
    """Write the picture; where it is, or None if that is standard output.

    Raises:
        OutputError: it could not be written there, and is kept elsewhere; the sentence says where.
    """

    def write() -> Path | None:
        data = encode(place.kind)
        if place.made_up:
            return write_free(place.made_up, data)
        if place.path:
            return images.write_file(place.path, data, overwrite=place.overwrite)
        streams.put(data, needed=True)
        return None

    return kept_anyway(write, place.beside, encode)


def save_partial(place: Target, encode: Encode) -> Path:
    """Write what there is of an interrupted painting, beside its place.

    Raises:
        OutputError: as `save` does.
    """
    name = place.beside.with_name(f"{place.beside.stem}.partial.png")
    written = kept_anyway(lambda: write_free(name, encode("png")), name, encode)
    assert written is not None
    return written


def write_free(path: Path, data: bytes) -> Path:
    """Write under the first free name of `path`, `path-2` …, even if other runs take names meanwhile."""
    while True:
        free = images.find_free_name(path)
        try:
            return images.write_file(free, data)
        except OutputError:
            if not os.path.lexists(free):
                raise


def announce(path: Path) -> None:
    """Put the path on stdout, byte for byte, whatever the encoding of the terminal."""
    streams.put(os.fsencode(path) + b"\n", f"The picture is saved as {quote_name(path)}, but standard output")


def kept_anyway(write: Callable[[], Path | None], name: Path, encode: Encode) -> Path | None:
    """Write; if that fails, keep the picture as PNG in the temporary folder, and fail with a sentence that says so."""
    try:
        return write()
    except OutputError as problem:
        said = str(problem).removesuffix(".")
        try:
            kept = write_free(Path(tempfile.gettempdir()) / f"{name.stem}.png", encode("png"))
        except (OutputError, OSError) as second:
            raise OutputError(f"{said}; nor could it be kept in the temporary folder ({second}).") from problem
        raise OutputError(f"{said}; the picture is kept as {quote_name(kept)}.") from problem


def _stem(path: Path) -> str:
    return "stdin" if str(path) == streams.STREAM else path.stem


def _is_folder(asked: str) -> bool:
    return asked.endswith(("/", os.sep)) or (asked != "" and _holds(Path(asked).is_dir))


def _holds(question: Callable[[], bool]) -> bool:
    """Ask about a name; False when there can be none such, which the check will say."""
    try:
        return question()
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False
