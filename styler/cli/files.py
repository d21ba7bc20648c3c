"""Pictures that are read and written: input names, decoding within limits, output names, and locks on outputs.

Loads `styler.images`, and with it numpy and Pillow, inside functions, so that help pages do not load them.
"""

import difflib
import hashlib
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styler import environment, library
from styler.cli import output
from styler.cli.flags import InputOptions, OutputOptions, flag_name
from styler.errors import ImageError, OptionError, OutputError, StylerError, UsageError, quote_name
from styler.options import ResolvedOptions
from styler.regions import specs

if TYPE_CHECKING:
    from styler.images import Picture


DECODE_SECONDS, DECODE_BYTES, DECODE_BYTES_PER_PIXEL = 600.0, 1_000_000_000, 40
"""Limits of the separate process that decodes pictures, so that no file can block a batch."""


def locate_content(name: str) -> Path:
    """Return the path of a photo: a file, or a photo that comes with styler.

    Raises:
        ImageError: it is neither.
    """
    return _locate(name, library.find_content, library.list_contents(), "photos")


def locate_style(name: str, *, is_last: bool = False) -> Path:
    """Return the path of a painting: a file, or a painting that comes with styler.

    Args:
        is_last: whether it is the last of several; a name that is missing may then be meant as the output.

    Raises:
        ImageError: it is neither.
    """
    return _locate(name, library.find_style, library.list_styles(), "paintings", is_last=is_last)


def _locate(
    name: str, find: Callable[[str], Path], bundled: Mapping[str, Path], kind: str, *, is_last: bool = False
) -> Path:
    if name == output.STREAM_NAME:
        return Path(name)
    if not name:
        raise ImageError("The name of a picture is empty; name a file, or one that comes with styler.")
    try:
        path = find(name)
    except OSError:  # whether it exists cannot be checked; reading it gives the reason
        return Path(name)
    if os.path.lexists(path):
        return path
    raise ImageError(f"Cannot read {quote_name(name)}: {_explain_missing(name, bundled, kind, is_last=is_last)}.")


def _explain_missing(name: str, bundled: Mapping[str, Path], kind: str, *, is_last: bool) -> str:
    """Return why there is no picture of a name, and what may be meant by it."""
    if re.match("[a-z][a-z0-9+.-]+://", name):
        return "it is a URL; download the picture and name the file"
    if re.search(r"[*?]", name):
        return "no file has this name; several pictures that match a pattern are painted by 'styler batch'"
    if name in library.list_styles():
        return "it is a painting that comes with styler; the photo comes first, as in 'styler run photo.jpg mosaic'"
    if name in library.list_contents():
        return "it is a photo that comes with styler; the photo comes first, as in 'styler run astronaut mosaic'"
    if is_last and Path(name).suffix:
        return "there is no such file; if it is the output, give it with -o"
    close = difflib.get_close_matches(name, bundled, 1) or difflib.get_close_matches(name.lower(), bundled, 1)
    hint = f"did you mean '{close[0]}'? The" if close else "the"
    return f"there is no such file; {hint} {kind} that come with styler are {', '.join(bundled)}"


def locate_masks(resolved: ResolvedOptions, content: Path | None, source: str | None = None) -> dict[str, Path]:
    """Return the paths of the mask and label pictures that the options name, by name.

    Args:
        resolved: the options; those of an earlier picture name files without folders.
        content: the photo, in whose folder the files of an earlier picture are looked for; None to require flags.
        source: name of the earlier picture.

    Raises:
        OptionError: there is no such mask.
        UsageError: a mask is standard input, or a file of an earlier picture is not beside the photo.
    """
    from styler.provenance import EARLIER_LAYER

    options, located = resolved.options, {}
    for option in ("protect", "regions", "labels"):
        for name in specs.list_mask_files(**{option: getattr(options, option)}):
            if name == output.STREAM_NAME:
                raise UsageError("A mask cannot come from standard input; name a file.")
            path = library.find_file(name)
            if resolved.origins[option] == EARLIER_LAYER and source is not None:
                path = str(content.parent / name) if content and str(content) != output.STREAM_NAME else name
                if content is None or not os.path.lexists(path):
                    flag = f"{flag_name(option)} {quote_name(name)[1:-1]}" + "=STYLE" * (option == "regions")
                    raise UsageError(
                        f"{quote_name(source)} was painted with the mask {quote_name(name)}; give that file with "
                        f"{flag}{', or put it beside the photo' if content else ''}."
                    )
            elif not specs.is_file_name(path):
                raise OptionError(specs.explain_missing_mask(name, ()))
            located[name] = Path(path)
    return located


def make_reader(options: InputOptions) -> "Callable[[Path], Picture]":
    """Return a function that reads the picture at a path.

    Raises:
        UsageError: the background or the limit of pixels is invalid.
    """
    decode = make_decoder(options)

    def read(path: Path) -> "Picture":
        source, name = (path, None) if str(path) != output.STREAM_NAME else (output.open_stdin(), output.STDIN_NAME)
        with _mute_stderr():
            return decode(source, name=name)

    return read


def make_url_reader(options: InputOptions) -> "Callable[[str], Picture]":
    """Return a function that reads the picture at a path or a URL."""
    read_file, decode = make_reader(options), make_decoder(options)

    def read(path: str) -> "Picture":
        from styler.batch import discover

        if not discover.is_url(path):
            return read_file(Path(path))
        data = discover.load_url(path)
        with _mute_stderr():
            return decode(data, name=path)

    return read


def make_decoder(options: InputOptions) -> "Callable[..., Picture]":
    """Return `images.read_image` with the limits set, as a function that can be sent to other processes.

    Raises:
        UsageError: the background or the limit of pixels is invalid.
    """
    from styler import images

    return partial(images.read_image, **_parse_limits(options))


def start_decoder(
    options: InputOptions, stack: ExitStack
) -> "tuple[Callable[[Path], Picture], Callable[..., Picture]]":
    """Start a process that decodes pictures, and return functions that read a file and decode bytes in it.

    Messages that decoders written in C print are discarded, and a decoder that crashes fails only its own picture.

    Args:
        stack: ends the process when it is closed.
    """
    from styler import images
    from styler.images.child import Decoder

    limits = _parse_limits(options)
    memory = DECODE_BYTES + DECODE_BYTES_PER_PIXEL * limits["max_pixels"]
    child = stack.enter_context(Decoder(DECODE_SECONDS, memory))

    def decode(data: bytes, *, name: str) -> "Picture":
        return child.read(data, name=name, **limits)

    def read(path: Path) -> "Picture":
        return decode(images.fetch_image_bytes(path), name=str(path))

    return read, decode


def _parse_limits(options: InputOptions) -> dict[str, Any]:
    """Return `background` and `max_pixels` as `images.read_image` takes them."""
    from PIL import ImageColor

    try:
        color = ImageColor.getrgb(options.background)[:3]
    except ValueError as error:
        raise UsageError(f"background is {options.background}; it can be a name such as white, or #rrggbb.") from error
    match = re.fullmatch(r"([0-9]{1,15})(M?)", options.max_pixels.strip(), re.ASCII)
    if not match or not int(match[1]):
        raise UsageError(f"max_pixels is {options.max_pixels}; it can be a whole number above 0, with M for millions.")
    max_pixels = int(match[1]) * (1_000_000 if match[2] else 1)
    return {"background": tuple(value / 255 for value in color), "max_pixels": max_pixels}


@contextmanager
def _mute_stderr() -> Iterator[None]:
    """Discard what decoders written in C print about damaged files; styler reports damage itself."""
    output.write_stderr("")  # flushes it
    try:
        saved = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 - a device
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


Encoder = Callable[[str], bytes]
"""Encodes the picture in the format of the given name."""


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """Where the picture is written; checked before any work."""

    path: Path | None
    """None for standard output."""
    format: str
    """A key of `images.FORMATS`."""
    default: Path | None
    """The default name, if no name was given; `path` is this name, perhaps with a number."""
    fallback: Path
    """A name in the same folder, where possible, for a picture that cannot be written to `path`."""
    overwrite: bool

    @property
    def label(self) -> str:
        """Name for messages."""
        return str(self.path or output.STDOUT_NAME)


def choose_target(
    options: OutputOptions,
    content: Path,
    styles: Sequence[Path],
    others: Iterable[Path],
    seed: int,
    *,
    is_bundled: bool,
    template: str = "{content}.{style}.{ext}",
    default_extension: str = "png",
) -> OutputTarget:
    """Choose where the picture is written, and check that it can be.

    Args:
        styles: give the field `{style}`, which does not exist without them.
        others: further files that the output must not replace.
        seed: value of the field `{seed}`.
        is_bundled: whether the photo comes with styler; the default name is then in the working folder.
        template: of the default name.
        default_extension: of the default name and of standard output, without `--format`.

    Raises:
        UsageError: the output is an input, exists without --overwrite, or its extension contradicts --format.
        OptionError: the format does not support the bit depth.
        OutputError: the output cannot be written.
    """
    from styler import images
    from styler.images.files import fill_template

    extension, stems = options.extension or default_extension, [_get_stem(path) for path in (content, *styles)]
    named = {"style": "+".join(stems[1:])} if styles else {}
    fields = {"content": stems[0], **named, "seed": str(seed), "ext": extension}
    default = Path(template.format(**fields))
    if not is_bundled and str(content) != output.STREAM_NAME:
        default = content.parent / default
    path, free, kind = None, None, images.find_format(default)
    if options.output != output.STREAM_NAME:
        name = None if options.output is None else fill_template(options.output, fields, "-o")
        if name is None or _is_folder(name):
            free = default if name is None else Path(name) / default.name
        path = Path(name) if name is not None and free is None else images.find_free_name(free or default)
        kind = _check_target(path, [content, *styles, *others], default, overwrite=options.overwrite)
        if options.extension and kind != images.find_format(default):
            raise UsageError(f"The name {quote_name(path)} contradicts --format {extension}; omit one of them.")
    _check_depth(int(options.bit_depth), kind, str(path or output.STDOUT_NAME))
    fallback = default if path is None or images.is_special(path) else path
    return OutputTarget(path, kind, free, fallback, options.overwrite)


def _check_depth(bit_depth: int, kind: str, label: str) -> None:
    from styler import images

    if bit_depth not in images.FORMATS[kind].depths:
        raise OptionError(
            f"The output {quote_name(label)} is {images.FORMATS[kind].name}, which does not support {bit_depth} bits; "
            "choose PNG or TIFF with a name that ends in .png or .tif, or --format."
        )


def _check_target(path: Path, inputs: Iterable[Path], default: Path, *, overwrite: bool) -> str:
    """Check that an output can be written, and return its format; a device or a pipe has that of the default name."""
    from styler import images

    if not path.name:
        raise UsageError("The name of the output is empty; give one with -o.")
    if any(is_same_file(path, other) for other in inputs):
        raise UsageError(f"The output {quote_name(path)} is one of the inputs; give it another name with -o.")
    if os.path.isfile(path) and not overwrite:  # noqa: PTH113 - False where `Path.is_file` raises
        raise UsageError(f"{quote_name(path)} already exists; give another name with -o, or --overwrite.")
    if not path.suffix and not os.path.lexists(path):
        raise UsageError(
            f"The output {quote_name(path)} has no extension; end its name in .png, .jpg, .webp, .avif or .tif, or in "
            "/ if it is a folder."
        )
    images.check_output(path, overwrite=overwrite)
    try:
        return images.find_format(path)
    except OutputError:  # a device or a pipe: everything else has a known extension, or the check would have failed
        return images.find_format(default)


def save_picture(target: OutputTarget, encode: Encoder) -> Path | None:
    """Write the picture and return its path, or None for standard output.

    Raises:
        OutputError: it cannot be written there; the message names the file that it was saved to instead.
    """
    from styler import images

    def write() -> Path | None:
        data = encode(target.format)
        if target.default:
            return write_free(target.default, data)
        if target.path:
            return images.write_file(target.path, data, overwrite=target.overwrite)
        output.write_stdout(data, is_required=True)
        return None

    return write_or_keep(write, target.fallback, encode)


def save_partial(target: OutputTarget, encode: Encoder, extension: str = "png") -> Path:
    """Write the picture of a stopped run beside its target, and return its path.

    Raises:
        OutputError: as `save_picture` does.
    """
    from styler import images

    name = target.fallback.with_name(f"{target.fallback.stem}.partial.{extension}")
    path = write_or_keep(lambda: write_free(name, encode(images.find_format(name))), name, encode)
    assert path is not None
    return path


def write_free(path: Path, data: bytes) -> Path:
    """Write to the first free name of `path`, `path-2` …, even if other runs take names in the meantime."""
    from styler import images

    while True:
        free = images.find_free_name(path)
        try:
            return images.write_file(free, data)
        except OutputError:
            if not os.path.lexists(free):
                raise


def write_or_keep(write: Callable[[], Path | None], name: Path, encode: Encoder) -> Path | None:
    """Call `write`; if it fails, save the picture as PNG in the temporary folder and raise an error that says so."""
    try:
        return write()
    except OutputError as error:
        message = str(error).removesuffix(".")
        try:
            kept = write_free(environment.find_temporary_folder() / f"{name.stem}.png", encode("png"))
        except (StylerError, OSError) as second:
            raise OutputError(f"{message}; saving it in the temporary folder failed too ({second}).") from error
        raise OutputError(f"{message}; the picture was saved as {quote_name(kept)}.") from error


def print_path(path: Path) -> None:
    """Print a path on standard output, byte for byte, whatever the encoding of the terminal."""
    output.write_stdout(os.fsencode(path) + b"\n", f"The picture was saved as {quote_name(path)}, but standard output")


def _get_stem(path: Path) -> str:
    return "stdin" if str(path) == output.STREAM_NAME else path.stem


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or os.path.isdir(name)  # noqa: PTH112 - False where `Path.is_dir` raises


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file that exists."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them does not exist
        return False


@contextmanager
def hold_output(path: Path | None) -> Iterator[None]:
    """Lock `path` for this run until the block ends; does nothing for None, devices and pipes.

    Raises:
        OutputError: another run is writing it; the message names the process.
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
    except Timeout as error:  # before OSError, of which it is a subclass
        raise OutputError(
            f"Another run of styler{_describe_holder(note)} is writing {quote_name(path)}; wait for it, or give "
            "another name with -o."
        ) from error
    except (OSError, NotImplementedError):  # another user's file, or a file system without locks
        yield
        return
    try:
        with suppress(OSError):  # a full disk; the process is then not named
            holder = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}"
            note.write_text(holder, encoding="utf-8")
        yield
    finally:
        for leftover in (note, file):  # while it is locked, so that a run waiting for this file sees that it is gone
            with suppress(OSError):  # Windows does not remove open files
                leftover.unlink(missing_ok=True)
        lock.release()


def _describe_holder(note: Path) -> str:
    """Return the process that holds a lock, in parentheses; empty if it is unknown."""
    try:
        return f" ({note.read_text(encoding='utf-8')})"
    except (OSError, UnicodeError):
        return ""


def _find_lock_folder() -> Path | None:
    """Return a folder of this user for locks; None if none can be written."""
    own = "styler"
    if sys.platform != "win32":
        own += f"-{os.getuid()}"
    for folder in (*_list_caches("locks"), *_list_temporary(own)):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # a read-only home, or none; try the next
            continue
        if os.access(folder, os.W_OK) and _is_own_folder(folder):
            return folder
    return None


def _list_caches(name: str) -> list[Path]:
    cache = environment.find_cache_folder()
    return [cache / name] if cache else []


def _list_temporary(name: str) -> list[Path]:
    """Return the folder of a name among temporary files, unless those would be put into the working folder."""
    try:
        folder = environment.find_temporary_folder()
        return [] if folder.samefile(os.curdir) else [folder / name]
    except (StylerError, OSError):  # there is no such folder, or the working folder is gone
        return []


def _is_own_folder(folder: Path) -> bool:
    """Return whether the folder belongs to this user; in another's, links could redirect our notes to our own files."""
    if sys.platform == "win32":
        return True
    return folder.lstat().st_uid == os.getuid()
