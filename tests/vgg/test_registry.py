"""Tests of backbones: torchvision's networks are converted exactly, fetched once, verified, and never unpickled."""

import hashlib
import http.client
import os
import pickle
import threading
import urllib.error
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from styler import library
from styler.errors import OptionError, WeightsError
from styler.vgg import arch, importers, registry, weights
from styler.vgg.model import Features
from styler.vgg.weights import Weights

State = dict[str, Tensor]
LAYER = {False: ("relu4_2", 14), True: ("relu4_2", 20)}
"""The last compared layer and its index in torchvision's list, without and with batch norm."""


def model(*, batch_norm: bool) -> nn.Sequential:
    """Build the convolutions of torchvision's VGG-11 with random weights and running statistics."""
    torch.manual_seed(11)
    layers = make_layers(cfgs["A"], batch_norm=batch_norm)
    for module in layers:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    assert isinstance(layers, nn.Sequential)
    return layers.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models() -> dict[bool, nn.Sequential]:
    return {batch_norm: model(batch_norm=batch_norm) for batch_norm in (False, True)}


@pytest.fixture(scope="module")
def states(models: dict[bool, nn.Sequential]) -> dict[bool, State]:
    return {
        batch_norm: {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
        for batch_norm, layers in models.items()
    }


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch, picture: Callable[..., Tensor]) -> None:
    """Use two small pictures for the rescaling constants; the bundled ones would take seconds."""
    monkeypatch.setattr(registry, "_load_bundled_pictures", lambda: [picture(48, 32, 1), picture(32, 48, 2)])


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Use an empty cache folder."""
    monkeypatch.setattr(registry, "get_cache_folder", lambda: tmp_path / "cache" / "weights")
    return tmp_path / "cache" / "weights"


@pytest.fixture(scope="module")
def checkpoint(states: dict[bool, State], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a state dict of VGG-11 in a file named as torchvision names it."""
    folder = tmp_path_factory.mktemp("server")
    path = folder / "vgg11.pth"
    torch.save(states[False], path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path.rename(folder / f"vgg11-{digest[:8]}.pth")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> str:
    """Make one checkpoint be that of every backbone."""
    monkeypatch.setattr(registry, "locate_checkpoint", lambda _name: checkpoint.as_uri())
    return checkpoint.as_uri()


def one_sentence(caught: pytest.ExceptionInfo[Exception]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def save_state(state: State, folder: Path, name: str = "vgg11-test.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def convert(state: State, folder: Path) -> Weights:
    """Convert torchvision's state dict to weights of styler."""
    path = save_state(state, folder)
    return weights.parse_weights(registry.convert_weights_file(path, "torchvision"), path)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_converted_network_matches_torchvision(
    models: dict[bool, nn.Sequential],
    states: dict[bool, State],
    picture: Callable[..., Tensor],
    tmp_path: Path,
    batch_norm: bool,
) -> None:
    """Compare away from the border, where styler repeats the image and torchvision pads with zeros."""
    layer, position = LAYER[batch_norm]
    loaded = convert(states[batch_norm], tmp_path)
    image = picture(128, 128, 3)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = models[batch_norm][: position + 1]((image - mean.reshape(3, 1, 1)) / spread.reshape(3, 1, 1))
    maps = Features(loaded, [layer])(image)[layer] * loaded.mean_activation["max"]["conv4_2"].reshape(-1, 1, 1)
    assert maps.shape == expected.shape
    inside = (..., slice(5, -5), slice(5, -5))
    scale = float(expected[inside].square().mean().sqrt())
    torch.testing.assert_close(maps[inside] / scale, expected[inside] / scale, rtol=0, atol=2e-4)


def test_swapped_channel_order_is_detected(
    models: dict[bool, nn.Sequential], states: dict[bool, State], picture: Callable[..., Tensor], tmp_path: Path
) -> None:
    loaded = convert(states[False], tmp_path)
    image = picture(64, 64, 3)
    right, wrong = (Features(loaded, ["relu4_2"])(x)["relu4_2"] for x in (image, image.flip(1)))
    assert (right - wrong).norm() > 0.1 * right.norm()


def test_folding_batch_norm_is_exact() -> None:
    generator = torch.Generator().manual_seed(2)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    state = {
        "bn.weight": 0.5 + rand(6),
        "bn.bias": rand(6),
        "bn.running_mean": rand(6),
        "bn.running_var": 0.1 + rand(6),
    }
    kernel, bias, image = rand(6, 4, 3, 3) - 0.5, rand(6), rand(1, 4, 12, 12)
    norm = nn.BatchNorm2d(6).eval()
    norm.load_state_dict({name.removeprefix("bn."): value for name, value in state.items()}, strict=False)
    expected = norm(nn.functional.conv2d(image, kernel, bias, padding=1))
    folded = nn.functional.conv2d(image, *importers.fold_batch_norm(kernel, bias, state, "bn"), padding=1)
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5)
    assert norm.eps == importers.BATCH_NORM_EPSILON


def test_converted_file_records_its_source_and_is_rescaled(states: dict[bool, State], tmp_path: Path) -> None:
    loaded = convert(states[True], tmp_path)
    digest = hashlib.sha256((tmp_path / "vgg11-test.pth").read_bytes()).hexdigest()
    assert loaded.info["source"] == {"file": "vgg11-test.pth", "sha256": digest}
    assert loaded.network == "vgg11"
    assert set(loaded.mean_activation) == {"max", "average", "mixed"}
    assert set(loaded.kernels) == {f"{c.name}.{p}" for c in arch.list_convolutions("vgg11") for p in ("weight", "bias")}


@pytest.mark.parametrize("name", ["vgg13", "vgg16-imagenet", "vgg19-bn"])
def test_checkpoint_of_another_network_is_rejected(name: str, cache: Path, offered: str) -> None:
    with pytest.raises(WeightsError, match=r"are of vgg11, not vgg\d\d") as caught:
        registry.load_backbone(name)
    assert offered in one_sentence(caught)
    assert not registry.is_cached(name)


def test_state_without_running_statistics_is_rejected(states: dict[bool, State], tmp_path: Path) -> None:
    state = {name: value for name, value in states[True].items() if name != "features.1.running_mean"}
    with pytest.raises(WeightsError, match="running_mean") as caught:
        convert(state, tmp_path)
    one_sentence(caught)


def test_backbone_is_fetched_once_and_cached(
    monkeypatch: pytest.MonkeyPatch, cache: Path, offered: str, checkpoint: Path
) -> None:
    fetched: list[str] = []
    download = registry.download_checkpoint

    def counted(url: str, path: Path) -> None:
        fetched.append(url)
        download(url, path)

    monkeypatch.setattr(registry, "download_checkpoint", counted)
    first = registry.load_backbone("vgg11")
    second = registry.load_backbone("vgg11")
    assert fetched == [offered]
    assert first.sha256 == second.sha256
    assert first.info["source"] == {
        "file": checkpoint.name,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }
    torch.testing.assert_close(first.kernels["conv5_2.weight"], second.kernels["conv5_2.weight"], rtol=0, atol=0)
    kept = {path.name for path in cache.iterdir()}
    assert kept <= {"vgg11.safetensors", "vgg11.sha256", "vgg11.lock"}  # no temporary file is left


def test_altered_cached_file_is_rejected(cache: Path, offered: str) -> None:
    registry.load_backbone("vgg11")
    path = cache / "vgg11.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="altered") as caught:
        registry.load_backbone("vgg11")
    assert str(path) in one_sentence(caught)


def test_concurrent_loads_fetch_once(monkeypatch: pytest.MonkeyPatch, cache: Path, offered: str) -> None:
    fetched: list[str] = []
    download = registry.download_checkpoint

    def counted(url: str, path: Path) -> None:
        fetched.append(url)
        download(url, path)

    monkeypatch.setattr(registry, "download_checkpoint", counted)
    loaded: list[Weights] = []
    threads = [threading.Thread(target=lambda: loaded.append(registry.load_backbone("vgg11"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loaded) == 3
    assert len(fetched) == 1


@pytest.mark.parametrize("promised", ["00000000", "ffffffff"])
def test_checkpoint_that_does_not_match_its_name_is_rejected(checkpoint: Path, tmp_path: Path, promised: str) -> None:
    wrong = tmp_path / f"vgg11-{promised}.pth"
    wrong.write_bytes(checkpoint.read_bytes()[:5000])
    target = tmp_path / "got.pth"
    with pytest.raises(WeightsError, match="vgg16") as caught:
        registry.download_checkpoint(wrong.as_uri(), target)
    one_sentence(caught)
    assert not target.exists()


def test_matching_checkpoint_is_downloaded(checkpoint: Path, tmp_path: Path) -> None:
    registry.download_checkpoint(checkpoint.as_uri(), tmp_path / "got.pth")
    assert (tmp_path / "got.pth").read_bytes() == checkpoint.read_bytes()


def unreachable(*_args: Any, **_kwargs: Any) -> None:
    raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")


def slow(*_args: Any, **_kwargs: Any) -> None:
    raise TimeoutError("timed out")


def reset(*_args: Any, **_kwargs: Any) -> None:
    raise ConnectionResetError(104, "Connection reset by peer")


def broken(*_args: Any, **_kwargs: Any) -> None:
    raise http.client.IncompleteRead(b"half", 100)


def strange(*_args: Any, **_kwargs: Any) -> None:
    raise http.client.BadStatusLine("<html>")


@pytest.mark.parametrize("failure", [unreachable, slow, reset, broken, strange])
def test_error_without_network_names_the_embedded_default(
    monkeypatch: pytest.MonkeyPatch, cache: Path, failure: Callable[..., None]
) -> None:
    monkeypatch.setattr("torch.hub.urlopen", failure)
    with pytest.raises(WeightsError, match=r"vgg16 that comes with styler") as caught:
        registry.load_backbone("vgg19")
    one_sentence(caught)
    assert not (cache / "vgg19.safetensors").exists()


class _Server(BaseHTTPRequestHandler):
    """A server that sends half of `cut`, and 404 for everything else."""

    def do_GET(self) -> None:
        if "cut" not in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x" * 50)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize("name", ["absent-00000000.pth", "cut-00000000.pth"])
def test_dead_link_and_interrupted_transfer_are_rejected(server: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=name) as caught:
        registry.download_checkpoint(f"{server}/{name}", tmp_path / "got.pth")
    one_sentence(caught)
    if isinstance(cause := caught.value.__cause__, urllib.error.HTTPError):
        cause.close()  # it holds the connection


def test_unwritable_cache_is_one_sentence(monkeypatch: pytest.MonkeyPatch, offered: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setattr(registry, "get_cache_folder", lambda: tmp_path / "a file" / "weights")
    with pytest.raises(WeightsError, match="a file") as caught:
        registry.load_backbone("vgg11")
    one_sentence(caught)


def test_unknown_backbone_is_rejected_with_the_valid_names() -> None:
    with pytest.raises(OptionError, match="vgg17") as caught:
        registry.load_backbone("vgg17")
    assert all(name in str(caught.value) for name in registry.BACKBONES)


@pytest.mark.parametrize(("name", "entry"), list(registry.FROM_TORCHVISION.items()))
def test_torchvision_has_every_backbone_with_a_hash_in_its_name(name: str, entry: tuple[str, str]) -> None:
    network, file = entry
    architecture, digest = file.removesuffix(".pth").rsplit("-", 1)
    assert architecture == network + ("_bn" if name.endswith("-bn") else "")
    assert len(digest) == 8
    assert (
        registry.locate_checkpoint(name)
        == torchvision.models.get_weight(f"{architecture.upper()}_Weights.IMAGENET1K_V1").url
    )


class Malicious:
    """An object that leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_malicious_checkpoint_is_rejected_and_not_executed(tmp_path: Path) -> None:
    path, mark = tmp_path / "vgg11.pth", tmp_path / "mark"
    for save in (lambda thing: torch.save(thing, path), lambda thing: path.write_bytes(pickle.dumps(thing, 2))):
        save({"features.0.weight": Malicious(mark)})
        with pytest.raises(WeightsError, match=r"vgg11\.pth") as caught:
            importers.read_foreign_weights(path)
        one_sentence(caught)
    assert not mark.exists()


@pytest.mark.parametrize("thing", [{"epoch": 3}, [torch.zeros(1)], torch.zeros(2), {"state": {"a": torch.zeros(1)}}])
def test_checkpoint_with_more_than_tensors_is_rejected(tmp_path: Path, thing: Any) -> None:
    path = tmp_path / "vgg11.pth"
    torch.save(thing, path)
    with pytest.raises(WeightsError, match="more than tensors") as caught:
        importers.read_foreign_weights(path)
    one_sentence(caught)


def test_unreadable_cache_is_one_sentence(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    real_stat, real_mkdir = os.stat, Path.mkdir

    def deny(real: Any) -> Any:
        def denied(path: Any, *args: Any, **kwargs: Any) -> Any:
            if str(path).startswith(str(cache)):  # permissions do not stop the superuser
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **kwargs)

        return denied

    monkeypatch.setattr(os, "stat", deny(real_stat))
    monkeypatch.setattr(Path, "mkdir", deny(real_mkdir))
    assert not registry.is_cached("vgg11")
    with pytest.raises(WeightsError, match="Cannot fetch the weights") as caught:
        registry.load_backbone("vgg11")
    one_sentence(caught)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_invalid_checkpoint_is_rejected(tmp_path: Path, checkpoint: Path, cut: int) -> None:
    path = tmp_path / "vgg11.pth"
    for data in (checkpoint.read_bytes()[:cut], b"<html>not found</html>"[:cut], b"\x80\x02" + b"." * cut):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"vgg11\.pth") as caught:
            importers.read_foreign_weights(path)
        one_sentence(caught)


def test_rescaling_uses_the_photos_and_the_real_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    loaded = registry._load_bundled_pictures()
    assert len(loaded) == len(library.list_contents()) + 1
    for image in loaded:
        assert image.shape[:2] == (1, 3)
        assert max(image.shape[-2:]) == 256
        assert 0 <= float(image.min()) < float(image.max()) <= 1
