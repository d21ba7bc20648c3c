"""Input images in every form that callers have: files, PIL images, arrays, tensors. Each becomes a tensor on the CPU.

Knows images and tensors; does not know options, networks or schedules.
"""

import hashlib
import inspect
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized, ValuesView
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler import images, library
from styler.borders import Box
from styler.errors import ImageError, UsageError, quote_name
from styler.images import Picture
from styler.images.color import composite
from styler.images.decode import silence_decoders
from styler.images.exif import BROKEN, ORIENTATION
from styler.resample import resize

Input = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Picture | Image.Image | NDArray[Any] | Tensor
)
"""A picture in any of these forms:

    text or path     of a file; text may also be the name of a picture that comes with styler
    bytes, stream    of a file; an open binary file, read to its end, or from its beginning if it is at its end
    PIL image        in any mode; converted by its profile and EXIF orientation, like a file
    array            (H, W, 3), (H, W, 4) with alpha, (H, W) or (H, W, 1) gray, (H, W, 2) gray with alpha: sRGB as
                     floats in [0, 1], uint8, uint16 or bool
    tensor           the same; on any device

Channels may also come first, and a batch of one counts as its picture. Where both ends of a shape could be channels,
as in (3, 64, 3), the channels of a tensor come first and those of an array last. Floats may leave [0, 1] by
`MAX_EXCESS`, as resizing makes them, and are clipped; with larger values they mean something else, and are refused.
"""
Inputs = Input | list[Input] | tuple[Input, ...] | Iterator[Input]
"""One painting, or several in order: a list, a tuple, an iterator, the values of a dict."""

MAX_EXCESS = 0.25
"""How far floats may be outside [0, 1]: bicubic and Lanczos resizing exceed it by up to a fifth of an edge."""

WHITE = (1.0, 1.0, 1.0)
"""Behind transparent parts of arrays, as of files by default."""
SMALL_PIXELS = 256 * 256
"""Pixels of the largest copy of an image that is kept beside it."""
MAX_PATH_LENGTH = 4096
"""Characters of a path; a longer text is something else, such as base64."""

_ACCEPTED = (
    "a picture is the path, the bytes or an open binary file of a picture file, the name of a picture that comes with "
    "styler, a PIL image, or an array or tensor"
)
_SHAPES = "a picture has the shape (height, width, 3), or with alpha (height, width, 4), or gray (height, width)"
_VALUES = "give sRGB as floats in [0, 1], uint8 (0 to 255) or uint16 (0 to 65535)"


@dataclass(frozen=True, slots=True, eq=False)
class SourceImage:
    """An input image as a tensor on the CPU, with what a result records of its file."""

    image: Tensor
    """(1, 3, H, W), sRGB in [0, 1]."""
    digest: str
    """Identifies the image by its values and shape, as a key of the statistics cache."""
    sha256: str = ""
    """Of the file it was read from; empty if it came from an array."""
    alpha: NDArray[Any] | None = None
    """(H, W) in [0, 1], or None if it is opaque."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As in `Picture.metadata`."""
    warnings: tuple[str, ...] = ()
    """Of reading it, empty if the caller read it and has them; and of its border."""
    background: tuple[float, float, float] | None = None
    """As in `Picture.background`."""
    trim: Box | None = None
    """The part of the file that this is, if a border was cut off."""
    small: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    """Copies of at most `SMALL_PIXELS`, by width and height; many previews need them."""

    def fit(self, width: int, height: int) -> Tensor:
        """Return the image at a size, (1, 3, height, width)."""
        image = self.small.get((width, height))
        if image is None:
            image = resize(self.image, width, height)
            if width * height <= SMALL_PIXELS:
                self.small[width, height] = image
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (self.image.shape[-1], self.image.shape[-2])

    def crop(self, box: Box, *warnings: str) -> "SourceImage":
        """Return the part of the image in a box, with warnings that say so."""
        part = (slice(box.top, box.bottom), slice(box.left, box.right))
        return SourceImage.of(
            self.image[..., *part].contiguous(),
            sha256=self.sha256,
            alpha=None if self.alpha is None else self.alpha[part],
            metadata=self.metadata,
            background=self.background,
            warnings=(*self.warnings, *warnings),
            trim=box,
        )

    @classmethod
    def of(cls, image: Tensor, **described: Any) -> "SourceImage":
        """Make a source image with the digest of its values and shape."""
        return cls(image, _compute_digest(image), **described)


def _compute_digest(image: Tensor) -> str:
    values = image.contiguous().numpy().data
    return hashlib.blake2b(values, digest_size=16).hexdigest() + str(tuple(image.shape))


class _Known(NamedTuple):
    """What is known of a picture whose pixels are read-only; they are taken to be constant."""

    digest: str
    small: dict[tuple[int, int], Tensor]


_known_pictures: "WeakKeyDictionary[Picture, _Known]" = WeakKeyDictionary()


def load_content(content: Input) -> SourceImage:
    """Load the photo; text may be the name of a bundled photo.

    Raises:
        StylerError: as `load_source`.
    """
    return load_source(content, "The content", library.find_content)


def load_styles(styles: Inputs) -> list[SourceImage]:
    """Load one painting, or each of several; text may be the name of a bundled painting.

    Raises:
        StylerError: as `load_source`; says which style.
    """
    return [*iterate_styles(styles)]


def iterate_styles(styles: Inputs) -> Iterator[SourceImage]:
    """Load paintings as `load_styles` does, each when it is asked for.

    Raises:
        StylerError: as `load_source`; says which style.
    """
    if isinstance(styles, set | frozenset | Mapping):
        raise UsageError(f"The styles are a {type(styles).__name__}, which has no order; give a list of them.")
    names = isinstance(styles, np.ndarray) and styles.ndim == 1 and styles.dtype.kind in "UO"
    is_stream = hasattr(styles, "read")
    if not names and (is_stream or not isinstance(styles, list | tuple | deque | ValuesView | Iterator)):
        yield load_source(cast("Input", styles), "The style", library.find_style)
        return
    is_single = not isinstance(styles, Iterator) and len(cast("Sized", styles)) == 1
    for number, style in enumerate(cast("Iterable[Input]", styles), start=1):
        yield load_source(style, "The style" if is_single else f"Style {number}", library.find_style)


def load_start(start: Input) -> SourceImage:
    """Load the picture to start from.

    Raises:
        StylerError: as `load_source`.
    """
    return load_source(start, "The picture to start from", Path)


def load_source(source: Input, label: str = "The picture", find: Callable[[str], Path] = Path) -> SourceImage:
    """Load a picture in any of its forms.

    Args:
        source: the picture.
        label: what it is, in messages.
        find: returns the path that text stands for.

    Raises:
        ImageError: a file cannot be read.
        UsageError: it is not a picture, or has the wrong shape, type or values.
    """
    known = None
    if isinstance(source, Picture):
        picture = source
        known = None if picture.pixels.flags.writeable else _known_pictures.get(picture)
        if picture.pixels.ndim != 3 or picture.pixels.shape[2] != 3 or not picture.pixels.size:
            raise UsageError(f"{label} has the shape {picture.pixels.shape}; {_SHAPES}.")
        pixels = _normalize_values(picture.pixels.transpose(2, 0, 1), label)  # (3, H, W)
    else:
        picture = _read_picture(source, label, find)
        pixels = np.array(picture.pixels.transpose(2, 0, 1), order="C")
    image = torch.from_numpy(pixels)[None]  # (1, 3, H, W), a copy
    known = known or _Known(_compute_digest(image), {})
    if picture is source and not picture.pixels.flags.writeable:
        _known_pictures[picture] = known
    return SourceImage(
        image,
        **known._asdict(),
        sha256=picture.sha256,
        alpha=picture.alpha,
        metadata=picture.metadata,
        background=picture.background,
        warnings=() if picture is source else picture.warnings,
    )


def _read_picture(source: Any, label: str, find: Callable[[str], Path]) -> Picture:
    if isinstance(source, str | bytes | os.PathLike):  # before arrays, because numpy's texts are both
        return _read_file(source, label, find)
    if isinstance(source, Image.Image):
        return _convert_image(source, label)
    if isinstance(source, Tensor):
        return _make_picture(_order_channels(_copy_tensor(source, label), label, are_first=True), label)
    if hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        if np.ma.is_masked(source):
            raise UsageError(f"{label} is an array with masked values; fill them first, for instance by filled(0).")
        array = np.asarray(source)
        if array.ndim == 1 and array.dtype == np.uint8:  # bytes of a file, as programs hand them to OpenCV
            return _read_file(array.tobytes(), label, find)
        return _make_picture(_order_channels(array, label, are_first=False), label)
    return _read_file(source, label, find)


def _read_file(source: Any, label: str, find: Callable[[str], Path]) -> Picture:
    name = _name_input(label)
    if isinstance(source, str):
        return images.read_image(_locate(source, label, find))
    if isinstance(source, os.PathLike):
        return images.read_image(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return images.read_image(source, name=name)
    if isinstance(getattr(source, "content", None), bytes):  # the response of an HTTP library
        return images.read_image(source.content, name=name)
    if callable(getattr(source, "read", None)):
        named = getattr(source, "name", None)  # the number of a file that has no name
        return images.read_image(_rewind(source, label), name=named if isinstance(named, str) else name)
    if callable(getattr(source, "read_bytes", None)):  # a path inside an archive, or a resource
        return images.read_image(source.read_bytes(), name=str(source))
    kind = "None, which some programs return for a file that they cannot read"
    raise UsageError(f"{label} is {kind if source is None else f'of type {type(source).__name__}'}; {_ACCEPTED}.")


def _name_input(label: str) -> str:
    return label[0].lower() + label[1:]


def _locate(text: str, label: str, find: Callable[[str], Path]) -> str | Path:
    """Return the path that text stands for."""
    if len(text) > MAX_PATH_LENGTH:
        raise UsageError(f"{label} is a text of {len(text)} characters, not a path; decode it, and give the bytes.")
    if re.match("([a-z][a-z0-9+.-]+://|data:|file:)", text, re.IGNORECASE) and not os.path.lexists(text):
        raise UsageError(
            f"{label} is the address {quote_name(text[:60])}; download it, and give its bytes or its file."
        )
    path = find(text)
    return os.path.expanduser(text) if path == Path(text) and not os.path.lexists(text) else path  # noqa: PTH111 - raises for ~$x


def _rewind(stream: Any, label: str) -> BinaryIO:
    """Return the stream, at its beginning if it was at its end, as after a picture was written into it."""
    if getattr(stream, "closed", False) is True:
        raise UsageError(f"{label} is a file that is closed; open it again.")
    if inspect.iscoroutinefunction(stream.read):
        raise UsageError(f"{label} is a file that must be awaited; give its bytes.")
    if callable(getattr(stream, "seekable", None)) and stream.seekable():
        place = stream.tell()
        stream.seek(place if stream.read(1) else 0)
    return cast("BinaryIO", stream)


def _convert_image(image: Image.Image, label: str) -> Picture:
    """Convert a PIL image like a file: it is saved losslessly, with its profile and EXIF data, and decoded."""
    try:
        image.load()
    except (*BROKEN, AssertionError) as error:  # Pillow asserts that the file is still open
        reason = " ".join(str(error).split()) or "its file is closed"
        raise ImageError(
            f"{label} is an image that cannot be loaded ({reason}); keep its file open, and whole, until it is loaded."
        ) from error
    if 0 in image.size:
        raise UsageError(f"{label} has the size {image.size}; {_SHAPES}.")
    if image.mode == "F" or (image.mode.startswith("I") and image.mode != "I;16"):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:  # how Pillow holds 16 bits
            values = values.astype(np.uint16)
        return _make_picture(values[..., None], label)
    data = _save_image(image)
    picture = images.read_image(data, name=_name_input(label), min_side=1, max_pixels=image.width * image.height)
    return replace(picture, sha256="")


def _save_image(image: Image.Image) -> bytes:
    """Save a PIL image losslessly, and as fast as that is possible."""
    icc = icc if isinstance(icc := image.info.get("icc_profile"), bytes) else None
    stream = io.BytesIO()
    silence_decoders()
    try:
        exif = image.getexif()
        if image.format == "JXL":  # its decoder turns the picture upright but leaves the EXIF data unchanged
            exif[ORIENTATION] = 1
        orientation, stored = exif.get(ORIENTATION, 1), exif.tobytes()
    except BROKEN:
        orientation, stored = 1, b""
    if image.mode in ("CMYK", "LAB"):
        image.save(stream, "TIFF", icc_profile=icc, tiffinfo={ORIENTATION: orientation})
        return stream.getvalue()
    has_key = isinstance(image.info.get("transparency"), int | tuple | bytes if image.mode == "P" else int | tuple)
    if has_key and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I;16"):
        image = image.convert({"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(image.mode, "RGB"))
    if not has_key and "transparency" in image.info:  # inherited from another mode, which Pillow cannot write
        image = image.copy()
        del image.info["transparency"]
    image.save(stream, "PNG", icc_profile=icc, exif=stored, compress_level=0)
    return stream.getvalue()


def _copy_tensor(tensor: Tensor, label: str) -> NDArray[Any]:
    """Return the values of a tensor as an array."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        raise UsageError(f"{label} is a tensor without plain real values; {_VALUES}.")
    values = tensor.detach().cpu().resolve_neg()
    if values.dtype.is_floating_point:
        values = values.float()  # numpy has no bfloat16
    array: NDArray[Any] = values.numpy()
    return array


def _order_channels(array: NDArray[Any], label: str, *, are_first: bool) -> NDArray[Any]:
    """Return an array (H, W, C).

    Args:
        array: in any of the shapes that `Input` lists.
        label: what it is, in messages.
        are_first: whether channels come first if both ends could be channels.
    """
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    elif array.ndim == 4:
        raise UsageError(f"{label} is a batch of {shape[0]} pictures; give one of them, or several styles as a list.")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size:
        raise UsageError(f"{label} has the shape {tuple(shape)}; {_SHAPES}.")
    first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 2, 3, 4)
    if first and (are_first or not last):
        return np.moveaxis(array, 0, -1)
    if not last:
        raise UsageError(f"{label} has the shape {tuple(shape)}; {_SHAPES}.")
    return array


def _make_picture(array: NDArray[Any], label: str) -> Picture:
    """Return a picture of an array (H, W, C) of color or gray, perhaps with alpha."""
    values = _normalize_values(array, label)
    colors, alpha = values, None
    if values.shape[2] in (2, 4):
        colors, alpha = values[..., :-1], np.ascontiguousarray(values[..., -1])
    pixels = np.ascontiguousarray(np.broadcast_to(colors, (*colors.shape[:2], 3)))  # (H, W, 3)
    if alpha is None or (alpha == 1).all():
        return Picture(pixels)
    composite(pixels, alpha, WHITE)
    return Picture(pixels, alpha, background=WHITE)


def _normalize_values(values: NDArray[Any], label: str) -> NDArray[np.float32]:
    """Return a copy with values in [0, 1], contiguous in memory."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.float32, order="C")
    if kind == "u" and size <= 2:
        return np.asarray(np.divide(values, 255 if size == 1 else 65535, dtype=np.float32, order="C"))
    if kind != "f":
        raise UsageError(f"{label} has values of type {values.dtype}; {_VALUES}.")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite((low, high)).all():
        raise UsageError(f"{label} has values that are not finite; {_VALUES}.")
    if low < -MAX_EXCESS or high > 1 + MAX_EXCESS:
        extreme = f"reach {high:g}" if high > 1 + MAX_EXCESS else f"begin at {low:g}"
        raise UsageError(f"{label} is an array whose values {extreme}; give sRGB in [0, 1].")
    return np.asarray(np.clip(values, 0, 1, out=np.empty(values.shape, np.float32)))
