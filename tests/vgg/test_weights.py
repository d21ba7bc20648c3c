"""Tests of weights files: the embedded one is authentic, and invalid ones are rejected and never executed."""

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from styler import library
from styler.errors import OptionError, WeightsError
from styler.options import Options
from styler.vgg import arch, registry, weights
from styler.vgg.arch import POOLINGS
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import compare
from styler.workshop.objectives import build_features, build_objective

INFO: dict[str, Any] = {"network": "tiny", "convention": "rgb", "source": "test"}
FIRST_BIASES = (0.73429835, 0.09340367, 0.06775674, 0.8862966)
"""The first biases of conv1_1 of Oxford's VGG-16."""


def embedded_path() -> Path:
    return library.find_assets() / "weights" / "vgg16.safetensors"


def make_tensors(tiny: Weights) -> dict[str, Tensor]:
    """Return the tensors in a file of the tiny network."""
    means = {
        f"mean_activation.{pooling}.{conv}": mean
        for pooling, means in tiny.mean_activation.items()
        for conv, mean in means.items()
    }
    return {name: tensor.clone() for name, tensor in (*tiny.kernels.items(), *means.items())}


def save_file(folder: Path, tensors: dict[str, Tensor], info: Any = INFO) -> Path:
    path = folder / "net.safetensors"
    path.write_bytes(save(tensors, {"styler": json.dumps(info)}))
    return path


def read_error(path: Path, sha256: str | None = None) -> str:
    """Return the error message for a file: one line that names it."""
    with pytest.raises(WeightsError) as caught:
        weights.read_weights(path, sha256=sha256)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert message.endswith(".")
    return message


def test_embedded_file_has_the_recorded_hash() -> None:
    assert hashlib.sha256(embedded_path().read_bytes()).hexdigest() == weights.SHA256[weights.EMBEDDED]
    assert embedded_path().stat().st_size < 21e6


def test_embedded_file_records_its_source(vgg16: Weights) -> None:
    assert vgg16.network == "vgg16"
    assert vgg16.sha256 == weights.SHA256[weights.EMBEDDED]
    assert "Simonyan" in vgg16.info["credit"]
    assert "Zisserman" in vgg16.info["credit"]
    assert "CC BY 4.0" in vgg16.info["credit"]
    assert len(vgg16.info["source"]["sha256"]) == 64
    assert 0 < vgg16.info["float16_error"] < 1e-3


def test_slim_network_was_made_from_the_full_one(vgg16: Weights) -> None:
    path = registry.get_embedded_path(weights.SLIM)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.SHA256[weights.SLIM]
    assert path.stat().st_size < 8e6
    slim = registry.load_backbone(weights.SLIM)
    assert slim.info["slim"]["of"] == vgg16.sha256
    assert slim.info["credit"] == vgg16.info["credit"]
    assert (slim.layers, slim.pooling) == (vgg16.layers, Options().pooling)
    assert [conv.outputs for conv in slim.convs] == [64, *(conv.outputs // 2 for conv in vgg16.convs[1:])]


def test_slim_network_has_nearly_the_gradient_of_the_full_one(vgg16: Weights) -> None:
    _, content, style = compare.load_pairs(None, 1, 128)[0]
    objectives = [
        build_objective(build_features(network, Options()), Options(), content, style)
        for network in (vgg16, registry.load_backbone(weights.SLIM))
    ]
    full, slim = (objective.gradient(content)[1].flatten() for objective in objectives)
    assert torch.cosine_similarity(full, slim, dim=0) > 0.9


def test_embedded_network_is_that_of_oxford_up_to_conv5_1(vgg16: Weights) -> None:
    stored = load_file(embedded_path())
    assert stored["conv1_1.bias"][:4].tolist() == pytest.approx(FIRST_BIASES, rel=1e-3)
    assert stored["conv1_1.weight"].dtype is torch.float16
    names = [conv.name for conv in arch.list_convolutions_until("vgg16", ["relu5_1"])]
    assert list(vgg16.kernels) == [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    assert all(kernel.dtype is torch.float32 for kernel in vgg16.kernels.values())


def test_every_filter_has_a_constant_for_every_pooling(vgg16: Weights) -> None:
    assert set(vgg16.mean_activation) == {*POOLINGS}
    for means in vgg16.mean_activation.values():
        for conv in arch.list_convolutions_until("vgg16", ["relu5_1"]):
            assert means[conv.name].shape == (conv.outputs,)
            assert (means[conv.name] > 0).all()


def test_file_round_trips(tmp_path: Path, tiny: Weights) -> None:
    path = save_file(tmp_path, make_tensors(tiny))
    loaded = weights.read_weights(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert loaded.network == "tiny"
    assert loaded.info == INFO
    for name, kernel in tiny.kernels.items():
        torch.testing.assert_close(loaded.kernels[name], kernel, rtol=0, atol=0)
    torch.testing.assert_close(loaded.mean_activation["max"]["conv2_1"], tiny.mean_activation["max"]["conv2_1"])


@pytest.mark.parametrize("convention", ["caffe", "torchvision"])
def test_folding_a_convention_does_not_change_the_first_convolution(convention: str) -> None:
    generator = torch.Generator().manual_seed(1)
    kernel, bias = torch.randn((5, 3, 3, 3), generator=generator), torch.randn(5, generator=generator)
    image = torch.rand((1, 3, 9, 8), generator=generator)  # RGB in [0, 1]
    if convention == "caffe":
        seen = 255 * image.flip(1) - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    else:
        mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        seen = (image - mean.reshape(1, 3, 1, 1)) / spread.reshape(1, 3, 1, 1)
    expected = F.conv2d(F.pad(seen, (1, 1, 1, 1), mode="replicate"), kernel, bias)
    folded = weights.fold_convention({"conv1_1.weight": kernel, "conv1_1.bias": bias}, convention)
    actual = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), folded["conv1_1.weight"], folded["conv1_1.bias"])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_altered_or_truncated_file_is_rejected_by_its_hash(tmp_path: Path, tiny: Weights) -> None:
    path = save_file(tmp_path, make_tensors(tiny))
    good = path.read_bytes()
    sha256 = hashlib.sha256(good).hexdigest()
    for bad in (good[:-1], good[: len(good) // 2], b"", good[:-1] + bytes([good[-1] ^ 1])):
        path.write_bytes(bad)
        message = read_error(path, sha256)
        assert "truncated or has been altered" in message
        assert hashlib.sha256(bad).hexdigest()[:12] in message


def test_altered_copy_of_the_embedded_file_is_rejected(tmp_path: Path) -> None:
    data = bytearray(embedded_path().read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "vgg16.safetensors"
    path.write_bytes(data)
    assert "altered" in read_error(path, weights.SHA256[weights.EMBEDDED])


def test_truncated_file_is_rejected_even_without_a_hash(tmp_path: Path, tiny: Weights) -> None:
    path = save_file(tmp_path, make_tensors(tiny))
    good = path.read_bytes()
    for length in (0, 4, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        assert "does not hold VGG weights" in read_error(path)


def test_missing_file_and_folder_are_rejected_with_advice(tmp_path: Path) -> None:
    assert "--backbone" in read_error(tmp_path / "absent.safetensors")
    assert "--backbone" in read_error(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv3_1.weight", "conv1_1.bias", "mean_activation.average.conv2_1"])
def test_value_that_is_not_finite_is_rejected(tmp_path: Path, tiny: Weights, name: str, value: float) -> None:
    tensors = make_tensors(tiny)
    tensors[name].view(-1)[1] = value
    assert "not finite" in read_error(save_file(tmp_path, tensors))


def shape(tensors: dict[str, Tensor]) -> None:
    tensors["conv2_1.weight"] = torch.zeros(6, 3, 3, 3)


def bias(tensors: dict[str, Tensor]) -> None:
    tensors["conv2_1.bias"] = torch.zeros(7)


def no_bias(tensors: dict[str, Tensor]) -> None:
    del tensors["conv2_1.bias"]


def no_first(tensors: dict[str, Tensor]) -> None:
    del tensors["conv1_1.weight"]


def mean_of_no_pooling(tensors: dict[str, Tensor]) -> None:
    tensors["mean_activation.conv1_1"] = torch.ones(4)


def mean_shape(tensors: dict[str, Tensor]) -> None:
    tensors["mean_activation.max.conv1_1"] = torch.ones(5)


def mean_of_0(tensors: dict[str, Tensor]) -> None:
    tensors["mean_activation.max.conv1_1"] = torch.zeros(4)


def mean_missing(tensors: dict[str, Tensor]) -> None:
    del tensors["mean_activation.max.conv2_1"]


@pytest.mark.parametrize(
    "spoil", [shape, bias, no_bias, no_first, mean_of_no_pooling, mean_shape, mean_of_0, mean_missing]
)
def test_file_with_wrong_tensors_is_rejected(
    tmp_path: Path, tiny: Weights, spoil: Callable[[dict[str, Tensor]], None]
) -> None:
    tensors = make_tensors(tiny)
    spoil(tensors)
    read_error(save_file(tmp_path, tensors))


@pytest.mark.parametrize(
    "info",
    [
        {},
        [],
        "vgg16",
        None,
        {"network": "resnet50", "convention": "rgb"},
        {"network": ["tiny"], "convention": "rgb"},
        {"network": "tiny"},
        {"network": "tiny", "convention": "bgr"},
    ],
)
def test_file_with_wrong_metadata_is_rejected(tmp_path: Path, tiny: Weights, info: Any) -> None:
    read_error(save_file(tmp_path, make_tensors(tiny), info))


def test_foreign_safetensors_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}, {"styler": "not JSON"}):
        path.write_bytes(save({"conv1_1.weight": torch.zeros(1)}, metadata))
        read_error(path)


GOOD: dict[str, Any] = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": None},
        {"a": {**GOOD, "dtype": "F8"}},
        {"a": {**GOOD, "shape": [5]}},
        {"a": {**GOOD, "shape": [-2, -2]}},
        {"a": {**GOOD, "shape": "aaaa"}},
        {"a": {**GOOD, "data_offsets": [16, 32]}},
        {"a": {**GOOD, "data_offsets": [-16, 0]}},
        {"a": {**GOOD, "data_offsets": [16, 0]}},
        {"a": {**GOOD, "data_offsets": [0.0, 16.0]}},
        {"a": {**GOOD, "data_offsets": [0]}},
        {"a": GOOD, "__metadata__": []},
    ],
)
def test_file_with_a_wrong_header_is_rejected(tmp_path: Path, header: Any) -> None:
    path, text = tmp_path / "net.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    read_error(path)


def test_tensors_are_views_of_the_mapped_file_and_leave_it_as_it_is(tmp_path: Path, tiny: Weights) -> None:
    path = save_file(tmp_path, make_tensors(tiny))
    before = path.read_bytes()
    loaded = weights.read_weights(path)
    for name, kernel in tiny.kernels.items():
        assert not loaded.kernels[name].is_inference()
        torch.testing.assert_close(loaded.kernels[name], kernel, rtol=0, atol=0)
    assert "net.safetensors" in Path("/proc/self/maps").read_text() or not Path("/proc/self/maps").exists()
    loaded.kernels["conv2_1.weight"].zero_()
    assert path.read_bytes() == before


class Malicious:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickle_is_rejected_and_not_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.safetensors", tmp_path / "mark"
    path.write_bytes(pickle.dumps(Malicious(mark)))
    read_error(path)
    torch.save({"conv1_1.weight": Malicious(mark)}, path)
    read_error(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()  # the attack works where it is not prevented


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0 a photo", b"\n" * 40, struct.pack("<Q", 2) + b"{}", b"\0" * 64])
def test_invalid_safetensors_file_is_rejected(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(data)
    read_error(path)


def test_pruned_layer_is_rejected_with_the_valid_names(vgg16: Weights) -> None:
    """VGG-16 has relu5_2, but the embedded file ends with conv5_1."""
    with pytest.raises(OptionError, match="relu5_2") as caught:
        Features(vgg16, ["relu5_2"])
    assert "relu5_1" in str(caught.value)
    assert "relu5_3" not in str(caught.value)
