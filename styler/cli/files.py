"""The pictures that go in: found by name, read within limits, and read quietly.

Its flags come as one group, so that a verb takes them by one argument.
"""

import difflib
import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from styler import images
from styler.cli import output
from styler.cli.flags import InputOptions, OutputOptions
from styler.errors import ImageError, OptionError, OutputError, UsageError, quote_name
from styler.images.files import fill_template

if TYPE_CHECKING:
    from styler.images import Picture


DECODE_SECONDS, FIXED_BYTES, BYTES_A_PIXEL = 600.0, 1_000_000_000, 40
"""What a picture of somebody's own may take to be decoded apart, so that nothing that hangs holds up a batch."""


def locate_input(name: str, find: Callable[[str], Path], bundled: Mapping[str, Path], kind: str) -> Path:
    """The file that a name stands for.

    Raises:
        ImageError: there is neither a file nor a bundled picture of that name.
    """
    if name == output.STREAM_NAME:
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


def make_reader(reading: InputOptions) -> "Callable[[Path], Picture]":
    """What reads one picture.

    Raises:
        UsageError: there is no such colour or number.
    """
    background, limit = _parse_color(reading.background), _parse_count(reading.max_pixels)

    def read(path: Path) -> "Picture":
        from styler import images

        given, name = (path, None) if str(path) != output.STREAM_NAME else (output.open_stdin(), output.STDIN_NAME)
        with _mute_stderr():
            return images.read_image(given, name=name, background=background, max_pixels=limit)

    return read


def make_url_reader(reading: InputOptions) -> "Callable[[str], Picture]":
    """What reads a picture at a path or a URL."""
    near, decode = make_reader(reading), make_decoder(reading)

    def read(path: str) -> "Picture":
        from styler.batch import discover

        if not discover.is_url(path):
            return near(Path(path))
        data = discover.load_url(path)
        with _mute_stderr():
            return decode(data, name=path)

    return read


def make_decoder(reading: InputOptions) -> "Callable[..., Picture]":
    """What decodes bytes, called `name`, in whatever process it is sent to."""
    from styler import images

    return partial(
        images.read_image, background=_parse_color(reading.background), max_pixels=_parse_count(reading.max_pixels)
    )


def start_decoder(reading: InputOptions, ends: ExitStack) -> "tuple[Callable[[Path], Picture], Callable[..., Picture]]":
    """What reads files, and what decodes bytes, in a process of their own: while painting goes on in threads.

    What decoders written in C print about damage goes nowhere, and one that crashes costs a picture.

    Args:
        reading: how pictures are read.
        ends: closed when none is to be read any more.
    """
    from styler import images
    from styler.images.child import Decoder

    background, limit = _parse_color(reading.background), _parse_count(reading.max_pixels)
    child = ends.enter_context(Decoder(DECODE_SECONDS, FIXED_BYTES + BYTES_A_PIXEL * limit))

    def decode(data: bytes, *, name: str) -> "Picture":
        return child.read(data, name=name, background=background, max_pixels=limit)

    def read(path: Path) -> "Picture":
        return decode(images.fetch_image_bytes(path), name=str(path))

    return read, decode


def _parse_color(text: str) -> tuple[float, float, float]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as problem:
        raise UsageError(f"background is {text}; it can be a name such as white, or #rrggbb.") from problem
    return red / 255, green / 255, blue / 255


def _parse_count(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})(M?)", text.strip(), re.ASCII)
    if not found or not int(found[1]):
        raise UsageError(f"max_pixels is {text}; it can be a whole number above 0, or one with M for millions.")
    return int(found[1]) * (1_000_000 if found[2] else 1)


@contextmanager
def _mute_stderr() -> Iterator[None]:
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


EncodeAs = Callable[[str], bytes]
"""From the name of a format to the picture's bytes in it."""


@dataclass(frozen=True, slots=True)
class OutputTarget:
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
        return str(self.path or output.STDOUT_NAME)


def make_default_name(content: Path, styles: Iterable[Path], extension: str, *, bundled: bool) -> Path:
    """`<content>.<style>.png` beside the content, or in the working folder where the content is no file of one's own.

    A picture that comes with styler is `bundled`; one from standard input is called stdin.
    """
    name = f"{_stem(content)}.{'+'.join(map(_stem, styles))}.{extension}"
    return Path(name) if bundled or str(content) == output.STREAM_NAME else content.parent / name


def fill_name(asked: str, content: Path, styles: Iterable[Path], seed: int, extension: str) -> str:
    """A name with its `{fields}` filled in; `{{` and `}}` are braces.

    Raises:
        UsageError: there is no such field.
    """
    values = {"content": _stem(content), "style": "+".join(map(_stem, styles)), "seed": str(seed), "ext": extension}

    return fill_template(asked, values, "-o")


def choose_target(
    asked: OutputOptions, content: Path, styles: Sequence[Path], others: Iterable[Path], seed: int, *, bundled: bool
) -> OutputTarget:
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
    default = make_default_name(content, styles, extension, bundled=bundled)
    if asked.output == output.STREAM_NAME:
        path, made_up, kind = None, None, images.find_format(default)
    else:
        name = None if asked.output is None else fill_name(asked.output, content, styles, seed, extension)
        made_up = default if name is None else Path(name) / default.name if _is_folder(name) else None
        path = Path(name) if name is not None and made_up is None else images.find_free_name(made_up or default)
        kind = check_target(path, [content, *styles, *others], default, overwrite=asked.overwrite)
        if asked.extension and kind != images.find_format(default):
            raise UsageError(
                f"The name {quote_name(path)} and --format {extension} contradict each other; leave one of them out."
            )
    if int(asked.bit_depth) not in images.FORMATS[kind].depths:
        raise OptionError(
            f"The output {quote_name(path or output.STDOUT_NAME)} is {images.FORMATS[kind].name}, which has no "
            f"{asked.bit_depth} bit; choose PNG or TIFF, by a name that ends in .png or .tif or by --format."
        )
    beside = default if path is None or images.is_special(path) else path
    return OutputTarget(path, kind, made_up, beside, asked.overwrite)


def check_target(path: Path, inputs: Iterable[Path], default: Path, *, overwrite: bool) -> str:
    """Refuse an output that is an input, is there already, or cannot be written; return its format.

    That of a device or a pipe, which has no extension, is the default name's.

    Raises:
        UsageError: it is an input, or is there and may not be replaced.
        OutputError: it cannot be written.
    """
    if not path.name:
        raise UsageError("The name of the output is empty; give one with -o.")
    if any(_is_same_file(path, given) for given in inputs):
        raise UsageError(f"The output {quote_name(path)} is one of the inputs; give it another name with -o.")
    if _ask_path(path.is_file) and not overwrite:
        raise UsageError(f"{quote_name(path)} exists already; give another name with -o, or --overwrite.")
    images.check_output(path, overwrite=overwrite)
    try:
        return images.find_format(path)
    except OutputError:  # a device or a pipe: nothing else passes the check without a known extension
        return images.find_format(default)


def save_picture(place: OutputTarget, encode: EncodeAs) -> Path | None:
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
        output.write_stdout(data, needed=True)
        return None

    return write_or_keep(write, place.beside, encode)


def save_partial(place: OutputTarget, encode: EncodeAs) -> Path:
    """Write what there is of an interrupted painting, beside its place.

    Raises:
        OutputError: as `save` does.
    """
    name = place.beside.with_name(f"{place.beside.stem}.partial.png")
    written = write_or_keep(lambda: write_free(name, encode("png")), name, encode)
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
    output.write_stdout(os.fsencode(path) + b"\n", f"The picture is saved as {quote_name(path)}, but standard output")


def write_or_keep(write: Callable[[], Path | None], name: Path, encode: EncodeAs) -> Path | None:
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
    return "stdin" if str(path) == output.STREAM_NAME else path.stem


def _is_folder(asked: str) -> bool:
    return asked.endswith(("/", os.sep)) or (asked != "" and _ask_path(Path(asked).is_dir))


def _ask_path(question: Callable[[], bool]) -> bool:
    """Ask about a name; False when there can be none such, which the check will say."""
    try:
        return question()
    except OSError:
        return False


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False


@contextmanager
def hold_output(path: Path | None) -> Iterator[None]:
    """Have `path` for this run alone until the block ends; nothing is done for None and for devices and pipes.

    Raises:
        OutputError: another run is writing it; the sentence says which.
    """
    from styler import images

    with ExitStack() as stack:
        if path is not None and not images.is_special(path) and (folder := _find_lock_folder()):
            key = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
            stack.enter_context(_hold_lock(folder / f"{key}.lock", path))
        yield


@contextmanager
def _hold_lock(file: Path, path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock, note = FileLock(file, blocking=False), file.with_suffix(".txt")
    try:
        lock.acquire()
    except Timeout as problem:  # before OSError, which it is too
        raise OutputError(
            f"Another run of styler{_describe_holder(note)} is writing {quote_name(path)}; wait for it, or give another name "
            "with -o."
        ) from problem
    except (OSError, NotImplementedError):  # another user's file, perhaps, or a file system without locks
        yield
        return
    try:
        with suppress(OSError):  # a full disk; then it is not said who
            here = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}"
            note.write_text(here, encoding="utf-8")
        yield
    finally:
        for made in (note, file):  # while it is locked: whoever waits for this very file sees that it is gone
            with suppress(OSError):  # Windows removes no open file
                made.unlink(missing_ok=True)
        lock.release()


def _describe_holder(note: Path) -> str:
    """Who holds a lock, in brackets; empty when it cannot be known."""
    try:
        return f" ({note.read_text(encoding='utf-8')})"
    except (OSError, UnicodeError):
        return ""


def _find_lock_folder() -> Path | None:
    """A folder of this user's for locks; None when there is none that can be written."""
    from platformdirs import user_cache_path

    own = f"styler-{os.getuid()}" if sys.platform != "win32" else "styler"
    for folder in (user_cache_path("styler") / "locks", Path(tempfile.gettempdir()) / own):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # a home that is read-only, or none; the next may do
            continue
        if os.access(folder, os.W_OK) and _is_own_folder(folder):
            return folder
    return None


def _is_own_folder(folder: Path) -> bool:
    """Does it belong to this user? In another's, notes could be led elsewhere by links and write over our own files."""
    return sys.platform == "win32" or folder.lstat().st_uid == os.getuid()
