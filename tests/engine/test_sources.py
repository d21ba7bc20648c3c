"""Input images: every form that callers have becomes the same tensor, or is refused by a sentence that says which."""

import io
import os
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms
from torch import Tensor

from styler import images, library
from styler.engine.sources import MAX_EXCESS, SourceImage, load_content, load_source, load_start, load_styles
from styler.errors import ImageError, StylerError, UsageError

Picture = Callable[..., Tensor]
Array = NDArray[Any]

BYTES: Array = np.random.default_rng(2).integers(0, 256, (24, 32, 3), dtype=np.uint8)
FLOATS: NDArray[np.float32] = BYTES.astype(np.float32) / np.float32(255)
GRAY: Array = BYTES[..., 0]
OPACITY: Array = np.linspace(0, 255, 24 * 32).astype(np.uint8).reshape(24, 32)


def load(source: Any) -> Array:
    """Return what is painted, (H, W, 3), after checking that it is a tensor of its own."""
    loaded = load_source(source)
    assert (loaded.image.dtype, loaded.image.shape[:2]) == (torch.float32, (1, 3))
    assert not loaded.image.is_inference()
    assert loaded.image.is_contiguous()
    pixels: Array = loaded.image[0].permute(1, 2, 0).numpy()
    if isinstance(source, np.ndarray):
        assert not np.shares_memory(pixels, source)
    return pixels


def encode(image: Image.Image, format_: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **settings)
    return stream.getvalue()


PNG = encode(Image.fromarray(BYTES))


def test_the_digest_depends_on_pixels_and_shape(picture: Picture) -> None:
    image = picture(16, 24)
    assert SourceImage.of(image).digest == SourceImage.of(image.clone()).digest
    assert SourceImage.of(image).digest != SourceImage.of(image.reshape(1, 3, 24, 16)).digest
    other = image.clone()
    other[0, 0, 0, 0] += 0.01
    assert SourceImage.of(image).digest != SourceImage.of(other).digest


# Arrays

ARRAYS: dict[str, tuple[Any, Array]] = {
    "bytes": (BYTES, FLOATS),
    "floats": (FLOATS, FLOATS),
    "float64": (FLOATS.astype(np.float64), FLOATS),
    "float16": (FLOATS.astype(np.float16), FLOATS.astype(np.float16)),
    "long double": (FLOATS.astype(np.longdouble), FLOATS),
    "big-endian": (FLOATS.astype(">f4"), FLOATS),
    "uint16": (BYTES.astype(np.uint16) * 257, FLOATS),
    "big-endian uint16": (BYTES.astype(">u2") * 257, FLOATS),
    "bool": (BYTES > 100, (BYTES > 100).astype(np.float32)),
    "mirrored": (FLOATS[::-1, ::-1][::-1, ::-1], FLOATS),
    "a negative stride": (FLOATS[:, ::-1], FLOATS[:, ::-1]),
    "every second": (FLOATS[::2, ::2], FLOATS[::2, ::2]),
    "Fortran order": (np.asfortranarray(FLOATS), FLOATS),
    "channels first": (np.moveaxis(BYTES, -1, 0), FLOATS),
    "a batch of one": (FLOATS[None], FLOATS),
    "a batch of one, channels first": (np.moveaxis(FLOATS, -1, 0)[None], FLOATS),
    "gray": (GRAY, FLOATS[..., :1]),
    "gray with an axis": (GRAY[..., None], FLOATS[..., :1]),
    "gray, channels first": (GRAY[None], FLOATS[..., :1]),
    "opaque": (np.dstack([BYTES, np.full_like(GRAY, 255)]), FLOATS),
    "nothing masked": (np.ma.masked_array(FLOATS), FLOATS),
    "an excess of rounding": (FLOATS * 1.0001, np.minimum(FLOATS * 1.0001, 1)),
    "an excess of resizing": (FLOATS * 1.4 - 0.2, np.clip(FLOATS * 1.4 - 0.2, 0, 1)),
    "one pixel": (np.ones((1, 1, 3)), np.ones((1, 1, 3))),
}


def test_what_is_known_of_a_picture_is_kept_if_that_cannot_change() -> None:
    picture = images.Picture(np.full((20, 30, 3), 0.25, np.float32))
    first = load_source(picture)
    picture.pixels[0] = 0.5
    second = load_source(picture)
    assert second.digest != first.digest
    picture.pixels.setflags(write=False)
    third, fourth = load_source(picture), load_source(picture)
    assert third.digest == fourth.digest == second.digest
    assert torch.equal(fourth.image, second.image)
    assert fourth.fit(6, 4) is third.fit(6, 4) is not second.fit(6, 4)
    picture.pixels.setflags(write=True)
    picture.pixels[0] = 0.75
    assert load_source(picture).digest not in (first.digest, second.digest)


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_may_have_any_of_the_usual_shapes_and_types(kind: str) -> None:
    source, expected = ARRAYS[kind]
    before = source.copy()
    for given in (source, make_read_only(source)):
        np.testing.assert_allclose(load(given), np.broadcast_to(expected, (*expected.shape[:2], 3)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(source, before)


def make_read_only(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_both_ends_of_a_shape_may_be_channels() -> None:
    """The channels of a tensor come first, those of an array last."""
    array = np.random.default_rng(3).random((3, 20, 3), np.float32)
    assert np.array_equal(load(array), array)
    assert np.array_equal(load(torch.from_numpy(array)), np.moveaxis(array, 0, -1))
    small = np.random.default_rng(3).random((3, 3, 3), np.float32)
    assert np.array_equal(load(small), small)


@pytest.mark.parametrize("array", [np.dstack([BYTES, OPACITY]), np.dstack([GRAY, OPACITY])], ids=["RGBA", "LA"])
def test_alpha_is_composited_over_white_and_kept(array: Array) -> None:
    image = Image.fromarray(array, "RGBA" if array.shape[2] == 4 else "LA")
    expected = images.read_image(encode(image))
    tensors = [torch.from_numpy(np.moveaxis(array, -1, 0).copy())] if array.shape[2] == 4 else []
    sources: list[Any] = [array, array.astype(np.float32) / 255, image, *tensors]
    assert expected.alpha is not None
    for source in sources:
        loaded = load_source(source)
        assert loaded.alpha is not None
        np.testing.assert_allclose(loaded.alpha, expected.alpha, rtol=0, atol=1e-6)
        np.testing.assert_allclose(loaded.image[0].permute(1, 2, 0), expected.pixels, rtol=0, atol=1e-6)


REFUSED: dict[str, tuple[Any, str]] = {
    "0 to 255": (BYTES.astype(np.float32), "is an array whose values reach 255; give sRGB in [0, 1]."),
    "-1 to 1": (FLOATS * 2 - 1, "is an array whose values begin at -1; give sRGB in [0, 1]."),
    "0 to 255 as a tensor": (torch.from_numpy(BYTES).float(), "whose values reach 255; give sRGB in [0, 1]."),
    "0 to 255 as an image": (Image.fromarray(GRAY.astype(np.float32)), "reach 255; give sRGB in [0, 1]."),
    "high dynamic range": (FLOATS * 4, "reach 4; give sRGB"),
    "NaN": (np.full((24, 32, 3), np.nan), "has values that are not finite"),
    "infinite": (np.full((24, 32, 3), np.inf), "has values that are not finite"),
    "huge": (np.full((24, 32, 3), 1e300), "values reach 1e+300"),
    "integers": (BYTES.astype(np.int64), "has values of type int64; give sRGB as floats in [0, 1], uint8 (0 to 255)"),
    "objects": (np.full((24, 32, 3), None), "has values of type object;"),
    "complex": (FLOATS.astype(np.complex64), "has values of type complex64;"),
    "a complex tensor": (torch.ones(3, 8, 8, dtype=torch.complex64), "is a tensor without plain real values;"),
    "a sparse tensor": (torch.ones(8, 8).to_sparse(), "is a tensor without plain real values;"),
    "a meta tensor": (torch.ones(3, 8, 8, device="meta"), "is a tensor without plain real values;"),
    "a batch": (np.zeros((4, 24, 32, 3), np.uint8), "is a batch of 4 pictures; give one of them,"),
    "a batch of tensors": (torch.zeros(2, 3, 24, 32), "is a batch of 2 pictures;"),
    "a video": (np.zeros((1, 2, 24, 32, 3)), "has the shape (1, 2, 24, 32, 3); a picture has the shape (height, wid"),
    "five channels": (np.zeros((24, 32, 5)), "has the shape (24, 32, 5);"),
    "a row": (np.zeros(8), "has the shape (8,);"),
    "a number": (np.float64(0.5), "has the shape ();"),
    "empty": (np.zeros((0, 32, 3)), "has the shape (0, 32, 3);"),
    "no size": (Image.new("RGB", (0, 0)), "has the size (0, 0);"),
    "masked": (np.ma.masked_greater(FLOATS, 0.5), "is an array with masked values; fill them first"),
    "None": (None, "is None, which some programs return for a file that they cannot read; a picture is the path,"),
    "a dict": (
        {},
        "is of type dict; a picture is the path, the bytes or an open binary file of a picture file, the name",
    ),
    "a list": ([[[0.0] * 3] * 8] * 8, "is of type list; a picture is"),
    "an integer": (3, "is of type int; a picture is"),
    "a Picture of gray": (images.Picture(FLOATS[..., 0]), "has the shape (24, 32);"),
    "a Picture of 0 to 255": (images.Picture(BYTES.astype(np.float32)), "reach 255;"),
    "a web address": ("https://example.org/a.jpg", "is the address 'https://example.org/a.jpg'; download it"),
    "base64": ("iVBORw0KGgo" * 1000, "is a text of 11000 characters, not a path; decode it, and give the bytes."),
    "a data URL": ("data:image/png;base64,iVBORw0KGgo" + "A" * 1000, "is the address 'data:image/png;base64,iVB"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_in_a_sentence_that_says_which(kind: str) -> None:
    source, message = REFUSED[kind]
    loaders: list[tuple[Callable[[Any], object], str]] = [
        (load_content, "The content"),
        (lambda source: load_styles([source]), "The style"),
        (lambda source: load_styles((BYTES, source)), "Style 2"),
        (load_start, "The picture to start from"),
    ]
    for loader, label in loaders:
        with pytest.raises(UsageError) as caught:
            loader(source)
        text = str(caught.value)
        assert text.startswith(f"{label} ")
        assert message in text
        assert text.endswith(".")
        assert "\n" not in text
        assert len(text) < 300


def test_the_excess_that_resizing_makes_is_clipped_and_more_is_refused() -> None:
    assert load(np.full((8, 8, 3), 1 + MAX_EXCESS)).max() == 1
    assert load(np.full((8, 8, 3), -MAX_EXCESS)).min() == 0
    with pytest.raises(UsageError, match="values reach 1"):
        load(np.full((8, 8, 3), 1.01 + MAX_EXCESS))


# Tensors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_a_tensor_may_have_any_of_the_usual_shapes_and_types(dtype: torch.dtype) -> None:
    last = torch.from_numpy(BYTES if dtype == torch.uint8 else FLOATS).to(dtype)  # (H, W, 3)
    first = last.permute(2, 0, 1)
    shapes = [last, last[None], first, first[None], first.contiguous(), last.flip(0).flip(0)]
    if dtype.is_floating_point:
        shapes += [last.clone().requires_grad_(), torch.nn.Parameter(first)]
    for given in shapes:
        np.testing.assert_allclose(load(given), FLOATS, rtol=0, atol=4e-3 if dtype.itemsize == 2 else 1e-6)
    with torch.inference_mode():
        inferred = first.clone()
    assert np.array_equal(load(inferred), load(first))
    gray = last[..., 0]
    for given in (gray, gray[None], gray[..., None], gray[None, None], gray[None, ..., None]):
        np.testing.assert_allclose(load(given)[..., 2], load(last)[..., 0])


def test_a_tensor_of_16_bits_or_booleans_is_a_picture() -> None:
    deep = torch.from_numpy(BYTES.astype(np.uint16) * 257)
    np.testing.assert_allclose(load(deep), FLOATS, rtol=0, atol=1e-6)
    assert np.array_equal(load(torch.from_numpy(BYTES > 9)), (BYTES > 9).astype(np.float32))


# PIL images


def srgb_like(gamma: float) -> bytes:
    import imagecodecs

    primaries = [0.64, 0.33, 1.0, 0.3, 0.6, 1.0, 0.15, 0.06, 1.0]
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=(0.3127, 0.329, 1.0), primaries=primaries, gamma=gamma))


def make_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def make_images() -> dict[str, tuple[Image.Image, bytes]]:
    """Return PIL images and a file of each that holds the same."""
    base = Image.fromarray(BYTES)
    orientation: dict[str, Any] = {"exif": make_exif(6)}
    palette = base.quantize(16)
    made: dict[str, tuple[Image.Image, bytes]] = {}
    for mode in ("RGB", "RGBA", "L", "LA", "1", "P"):
        made[mode] = (base.convert(mode), encode(base.convert(mode)))
    for mode in ("HSV", "YCbCr", "RGBX", "RGBa", "La"):
        image = (
            base.convert("RGBA").convert(mode)
            if mode == "RGBa"
            else base.convert("LA").convert("La")
            if mode == "La"
            else base.convert(mode)
        )
        made[mode] = (image, encode(image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))))
    for mode in ("CMYK", "LAB"):
        image = base.convert(mode) if mode == "CMYK" else to_lab(base)
        made[mode] = (image, encode(image, "TIFF"))
    made["P with transparency"] = (palette, encode(palette, transparency=3))
    palette.info["transparency"] = 3
    keyed = base.copy()
    keyed.info["transparency"] = tuple(int(value) for value in BYTES[3, 4])
    made["RGB with transparency"] = (keyed, encode(base, transparency=keyed.info["transparency"]))
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    made["I;16"] = (deep, encode(deep))
    made["I"] = (deep.convert("I"), encode(deep))
    made["F"] = (Image.fromarray(GRAY.astype(np.float32) / np.float32(255)), encode(base.getchannel(0)))
    for name, settings in (("profile", {"icc_profile": srgb_like(1.0)}), ("orientation", orientation)):
        data = encode(base, **settings)
        made[name] = (Image.open(io.BytesIO(data)), data)
    both = encode(base.convert("CMYK"), "JPEG", icc_profile=b"no profile", **orientation)
    made["CMYK JPEG, upright by EXIF"] = (Image.open(io.BytesIO(both)), both)
    frames = [base, Image.fromarray(255 - BYTES)]
    animated = Image.open(io.BytesIO(encode(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    animated.seek(1)
    made["frame of a GIF"] = (animated, encode(animated.convert("RGB")))
    return made


def to_lab(image: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert converted is not None
    return converted


IMAGES = make_images()


@pytest.mark.parametrize("kind", IMAGES)
def test_a_pil_image_is_converted_like_its_file(kind: str) -> None:
    image, data = IMAGES[kind]
    expected = images.read_image(data)
    actual = load_source(image)
    np.testing.assert_allclose(actual.image[0].permute(1, 2, 0), expected.pixels, rtol=0, atol=1e-6)
    assert (actual.alpha is None) == (expected.alpha is None)
    if expected.alpha is not None:
        np.testing.assert_array_equal(actual.alpha, expected.alpha)
    assert actual.sha256 == ""


@pytest.mark.parametrize(
    "info",
    [
        {"transparency": b"\x00\xff\x10"},  # inherited from a palette
        {"transparency": "1"},
        {"icc_profile": "srgb"},
        {"icc_profile": None},
        {"icc_profile": b"abc"},
        {"exif": b"Exif\0\0II*\0garbage"},
    ],
    ids=str,
)
def test_odd_facts_about_a_pil_image_do_not_matter(info: dict[str, Any]) -> None:
    image = Image.fromarray(BYTES)
    image.info.update(info)
    assert np.array_equal(load(image), FLOATS)
    assert {name: image.info[name] for name in info} == info


def test_jpeg_xl_is_upright_already() -> None:
    """Its decoder turns the picture but leaves the EXIF data unchanged."""
    image = Image.open(io.BytesIO(encode(Image.fromarray(BYTES), exif=make_exif(6))))
    assert load(image).shape == (32, 24, 3)
    image = Image.open(io.BytesIO(encode(Image.fromarray(BYTES), exif=make_exif(6))))
    image.format = "JXL"
    assert np.array_equal(load(image), FLOATS)


def test_an_image_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with Image.open(tmp_path / "a.png") as closed:
        pass
    cut = Image.open(io.BytesIO(encode(Image.fromarray(np.kron(BYTES, np.ones((4, 4, 1), np.uint8))), "JPEG")[:1500]))
    for image in (closed, cut):
        with pytest.raises(ImageError, match=r"^Style 2 is an image that cannot be loaded \(.*\); keep its file open"):
            load_styles([BYTES, image])


def test_a_small_image_may_be_a_style() -> None:
    assert load(Image.new("RGB", (1, 1), "white")).shape == (1, 1, 3)


# Files


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    return path


class Response:
    """Like that of requests or httpx, whose `read` takes no size."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content


def test_a_file_may_be_given_in_every_form(path: Path) -> None:
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write("photo.png")
    written = io.BytesIO()
    Image.fromarray(BYTES).save(written, "PNG")  # which leaves it at its end
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    spooled.write(PNG)
    named = tempfile.NamedTemporaryFile()  # noqa: SIM115
    named.write(PNG)
    archive = zipfile.ZipFile("a.zip")
    (entry,) = (entry for entry in os.scandir() if entry.name == "photo.png")
    sources: list[Any] = [path, str(path), "photo.png", "~/photo.png", PurePath("photo.png"), entry]
    sources += [PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), written, spooled, named]
    sources += [
        path.open("rb"),
        archive.open("photo.png"),
        zipfile.Path("a.zip") / "photo.png",
        images.read_image(path),
    ]
    for source in sources:
        loaded = load_source(source)
        assert np.array_equal(loaded.image[0].permute(1, 2, 0), FLOATS), source
        assert loaded.sha256 == images.read_image(path).sha256, source
        if callable(getattr(source, "close", None)):
            source.close()
    archive.close()


def test_a_stream_that_cannot_be_read_is_refused(path: Path) -> None:
    class Upload:
        async def read(self) -> bytes:
            return PNG

    with path.open("rb") as closed:
        pass
    numbered = tempfile.TemporaryFile()  # noqa: SIM115 - whose name is a number
    cases: list[tuple[Any, str]] = [
        (closed, "The content is a file that is closed; open it again."),
        (Upload(), "The content is a file that must be awaited; give its bytes."),
        (io.StringIO("text"), "Cannot read 'the content': it was opened as text; open it in binary mode."),
        (io.BytesIO(b""), "Cannot read 'the content': it is empty"),
        (numbered, "Cannot read 'the content': it is empty"),
    ]
    for source, message in cases:
        with pytest.raises(StylerError) as caught:
            load_content(source)
        assert str(caught.value).startswith(message)
    numbered.close()


def test_text_may_name_a_bundled_picture_unless_there_is_such_a_file(path: Path) -> None:
    style, content = load_styles("starry-night")[0], load_content("astronaut")
    assert style.sha256 == images.read_image(library.list_styles()["starry-night"]).sha256
    assert content.sha256 == images.read_image(library.list_contents()["astronaut"]).sha256
    with pytest.raises(ImageError, match="Cannot read 'starry-night': there is no such file"):
        load_content("starry-night")
    (path.parent / "astronaut").write_bytes(PNG)
    assert np.array_equal(load_content("astronaut").image[0].permute(1, 2, 0), FLOATS)


# Several styles


def test_styles_may_be_one_picture_or_an_ordered_collection() -> None:
    other = 255 - BYTES
    collections: list[Any] = [[BYTES, other], (BYTES, other), (array for array in (BYTES, other)), iter([PNG, other])]
    collections += [{"a": BYTES, "b": other}.values(), deque([BYTES, other])]
    for several in collections:
        first, second = load_styles(several)
        assert first.digest == load_source(BYTES).digest
        assert second.digest == load_source(other).digest
    for one in (BYTES, PNG, io.BytesIO(PNG), Image.fromarray(BYTES), torch.from_numpy(BYTES)):
        assert [style.digest for style in load_styles(one)] == [load_source(BYTES).digest]
    assert load_styles([]) == []
    names: Any = np.array(["mosaic", "starry-night"])
    assert len(load_styles(names)) == 2
    assert len(load_styles([*torch.zeros(3, 8, 8, 3)])) == 3


@pytest.mark.parametrize("styles", [{"a.png", "b.png"}, {"a": BYTES}, frozenset()])
def test_styles_without_an_order_are_refused(styles: Any) -> None:
    with pytest.raises(UsageError, match=r"^The styles are a \w+, which has no order; give a list of them\.$"):
        load_styles(styles)
