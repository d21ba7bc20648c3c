"""The networks that find masks compute what their ONNX files compute, and damaged weights are refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from styler import images, library
from styler.errors import WeightsError
from styler.regions import networks
from styler.regions.networks import FACES, MASK_SHA256, SUBJECT, load_mask_network
from styler.resample import resize

CPU = torch.device("cpu")

SUBJECT_VALUES = (
    (0.0000, 0.0000, 0.9999, 0.0000, 0.0000, 0.0000),
    (0.0007, 0.0000, 1.0000, 0.0003, 0.0000, 0.0000),
    (0.0000, 0.9978, 1.0000, 0.0009, 0.0000, 0.0000),
    (0.4745, 0.9996, 1.0000, 0.9998, 0.0000, 0.0000),
    (0.9982, 0.9997, 0.9999, 0.9959, 1.0000, 0.9337),
    (0.9998, 1.0000, 0.9998, 0.9997, 0.9999, 0.9940),
)
"""Every 56th pixel, from the 20th, of what onnxruntime computes with u2netp.onnx for the astronaut at 320 px."""
SUBJECT_MEAN = 0.5502
FACE_VALUES = (
    *(0.8609, 2.1419, 1.8928, -0.0925, 0.2042, 0.3346, 0.2819, 0.3549, 0.7449, 0.5385, 0.4762, 0.6983, 0.2852),
    *(0.7133, 0.6749),
)
"""The output at the most probable face, of what onnxruntime computes with centerface.onnx at 160 px."""
FACE_PLACE = (9, 17)


def load_astronaut(side: int) -> Tensor:
    pixels = images.read_image(library.list_contents()["astronaut"]).pixels
    return resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], side, side)  # (1, 3, side, side)


def test_the_subject_network_computes_what_its_onnx_file_computes() -> None:
    mask = networks.run_subject_network(load_mask_network(SUBJECT, CPU).kernels, load_astronaut(320))
    assert mask.shape == (1, 1, 320, 320)
    assert mask[0, 0, 20::56, 20::56].numpy() == pytest.approx(torch.tensor(SUBJECT_VALUES).numpy(), abs=1e-2)
    assert float(mask.mean()) == pytest.approx(SUBJECT_MEAN, abs=2e-3)


def test_the_face_network_computes_what_its_onnx_file_computes() -> None:
    output = networks.run_face_network(load_mask_network(FACES, CPU).kernels, load_astronaut(160))
    assert output.shape == (15, 40, 40)
    assert divmod(int(output[0].argmax()), 40) == FACE_PLACE
    y, x = FACE_PLACE
    assert output[:, y, x].tolist() == pytest.approx(FACE_VALUES, abs=1e-2)


@pytest.mark.parametrize(("height", "width"), [(320, 320), (288, 384), (100, 60)])
def test_the_subject_network_takes_any_size(height: int, width: int) -> None:
    image = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0))
    mask = networks.run_subject_network(load_mask_network(SUBJECT, CPU).kernels, image)
    assert mask.shape == (1, 1, height, width)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1


@pytest.mark.parametrize("name", [SUBJECT, FACES])
@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "missing"])
def test_damaged_weights_are_refused(name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = networks.find_mask_weights(name).read_bytes()
    spoilt = {"truncated": data[: len(data) // 2], "altered": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}
    (tmp_path / "weights").mkdir()
    if damage in spoilt:
        (tmp_path / "weights" / f"{name}.safetensors").write_bytes(spoilt[damage])
    monkeypatch.setattr(library, "find_assets", lambda: tmp_path)
    with pytest.raises(WeightsError, match=r"(altered|Cannot read).*reinstall styler\.$"):
        load_mask_network(name, CPU)


def test_the_weights_are_those_whose_hashes_are_known() -> None:
    for name, sha256 in MASK_SHA256.items():
        assert load_mask_network(name, CPU).sha256 == sha256
