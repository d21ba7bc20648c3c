"""What callers do with a result: files with the record, PIL images, and the examples in the package's documentation."""

import io
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import styler
from styler import images, provenance
from styler.engine.painter import Painter
from styler.errors import OptionError, OutputError, UsageError
from styler.options import Options

Array = NDArray[Any]
FAST = Options(size=64, first_size=64, iterations=1, device="cpu")
OPACITY = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)


@pytest.fixture
def photo(tmp_path: Path, pixels: Callable[..., Array], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a photo with alpha in a working folder that is also the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(np.dstack([images.to_uint8(pixels(64, 64)), OPACITY])).save("photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", ["a.png", "~/a.tiff", "new/folder/a.webp", "a.avif"])
def test_a_saved_result_has_its_record_and_alpha(
    painter: Painter, photo: Path, pixels: Callable[..., Array], name: str
) -> None:
    images.write_file("painting.jpg", images.encode_image(pixels(64, 64, 1), format="jpeg"))
    sha256 = images.read_image(photo).sha256
    result = painter.stylize("photo.png", Path("painting.jpg"), FAST.replace(init=photo))
    path = result.save(name, bit_depth=16 if name.endswith("tiff") else 8)
    assert path.is_relative_to(photo.parent) or not path.is_absolute()
    assert not Path("~").exists()
    record = provenance.read_record(path)
    assert record == provenance.make_record(result)
    assert (record["content"], record["init"], len(record["styles"][0])) == (sha256, sha256, 64)
    saved = images.read_image(path)
    assert saved.alpha is not None
    np.testing.assert_allclose(saved.alpha * 255, OPACITY, rtol=0, atol=1.01)


def test_formats_have_their_usual_names(painter: Painter, photo: Path) -> None:
    result = painter.stylize(photo, photo, FAST)
    assert result.encode(format="jpg") == result.encode(format=".JPEG") == result.encode(format="jpeg")
    assert result.encode(format="TIF")[:2] == b"II"
    with pytest.raises(OutputError, match="There is no format 'bmp'; choose one of png, jpeg"):
        result.encode(format="bmp")
    stream: Any = io.BytesIO()
    with pytest.raises(UsageError, match="A BytesIO is not a path to save to; write the bytes of encode\\(\\) into it"):
        result.save(stream)


def test_a_painter_refuses_what_options_refuse(use_tiny: None, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"precision": "fp8"}, {"precision": torch.float32}, {"backbone": None}]
    for settings in wrong:
        with pytest.raises(OptionError, match=f"^{next(iter(settings))} is "):
            Painter(**settings)
    device: Any = torch.device("cpu")
    backbone: Any = tmp_path / "net.pth"
    assert Painter(backbone, device=device).device == device


def test_a_result_is_converted_to_a_pil_image(painter: Painter, photo: Path, pixels: Callable[..., Array]) -> None:
    result = painter.stylize(photo, pixels(64, 64, 1), FAST)
    image = result.to_pil()
    assert (image.mode, image.size) == ("RGBA", (64, 64))
    assert np.array_equal(np.asarray(image)[..., :3], images.to_uint8(result.pixels))
    assert np.array_equal(np.asarray(image)[..., 3], OPACITY)
    again = painter.stylize(image, result.to_pil().convert("RGB"), FAST).to_pil()
    assert again.mode == "RGBA"
    assert painter.stylize(pixels(64, 64), image, FAST).to_pil().mode == "RGB"


def test_a_picture_in_any_form_may_be_the_start(painter: Painter, photo: Path, pixels: Callable[..., Array]) -> None:
    content, style, start = pixels(64, 64), pixels(64, 64, 1), images.read_image(photo)
    expected = painter.stylize(content, style, FAST.replace(init=str(photo)))
    for given in (photo, start, Image.open(photo), photo.read_bytes()):
        result = painter.stylize(content, style, FAST, start=given)
        assert np.array_equal(result.pixels, expected.pixels)
        assert provenance.make_record(result)["options"]["init"] == "file"
    assert not np.array_equal(painter.stylize(content, style, FAST).pixels, expected.pixels)


def test_warnings_about_inputs_are_notes_unless_the_caller_read_them(painter: Painter, photo: Path) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save("two.gif", save_all=True, append_images=frames[1:])
    message = "About 'two.gif': it contains more than one image; only the first is used."
    assert painter.stylize("two.gif", photo, FAST).notes == (message,)
    assert painter.stylize(images.read_image("two.gif"), photo, FAST).notes == ()


def test_a_comfyui_node_paints_in_ten_lines(use_tiny: None) -> None:
    assert styler.__doc__
    node = next(block for block in re.split(r"\n(?=\S)", styler.__doc__) if "ComfyUI" in block)
    code = textwrap.dedent(node.split("\n\n", 1)[1])
    assert len(code.split("class", 1)[1].split("\n\nNODE")[0].split("\n")) <= 13
    namespace: dict[str, Any] = {}
    exec(compile(code, "node", "exec"), namespace)
    kind = namespace["NODE_CLASS_MAPPINGS"]["StylePainter"]
    inputs = kind.INPUT_TYPES()["required"]
    with torch.inference_mode():
        photos, painting = torch.rand(2, 48, 64, 3), torch.rand(1, 40, 32, 3)
        (painted,) = getattr(kind(), kind.FUNCTION)(**dict(zip(inputs, (photos, painting, 60.0), strict=True)))
    assert (painted.shape, painted.dtype) == (photos.shape, torch.float32)
    assert 0 <= painted.min() < painted.max() <= 1
