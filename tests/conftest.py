"""A tiny seeded network, a painter that uses it, and small generated pictures, shared by all tests."""

import os

from styler import environment

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Processes that run tests side by side; they share the cores, since more threads than cores wait for each other."""
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
environment.prepare_process()  # before torch is loaded: tests share their cores with whatever else runs

import math
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made import Picture, Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler.engine import precision
from styler.engine.painter import Painter
from styler.regions.find import MaskFinder
from styler.vgg import arch, model, registry
from styler.vgg import weights as weights_module
from styler.vgg.arch import POOLINGS
from styler.vgg.weights import Weights

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the program respects that nohup ignores it; its tests send it

TINY = ((4, 1), (6, 2), (6, 2), (8, 3), (8, 1))
"""A small VGG with every layer that the default options use, up to relu5_1."""


def _picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return seeded areas of color with some grain, (1, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(1000 + seed)
    areas = torch.rand((1, 3, 6, 6), generator=generator)
    grain = torch.rand((1, 3, height, width), generator=generator)
    wide = F.interpolate(areas, (height, width), mode="bicubic", align_corners=False)
    return (0.85 * wide.clamp(0, 1) + 0.15 * grain).contiguous()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the developer's settings of styler and the terminal from the tests and the programs they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.startswith("STYLER_") or name in {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"}:
                patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        _store_measurements(patch)
        yield


def _store_measurements(patch: pytest.MonkeyPatch) -> None:
    """Make float32 the precision that `auto` chooses in every test, whatever machine runs them.

    Programs that the tests start find it in the cache, unless they have one of their own.
    """
    patch.setattr(precision, "run_measurement", lambda _device: precision.Measurement({"fp32": 1.0, "bf16": 2.0}))
    machine = precision.describe_machine(torch.device("cpu"))
    for threads in range(1, max(16, os.cpu_count() or 1) + 1):
        precision.write_measurement({**machine, "threads": threads}, precision.Measurement({"fp32": 1.0}))


@pytest.fixture(scope="session")
def picture() -> Picture:
    """Return `picture(height, width, seed)`, which makes a tensor (1, 3, H, W)."""
    return _picture


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """Return `pixels(height, width, seed)`, which makes an array (H, W, 3)."""

    def made(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
        return np.ascontiguousarray(_picture(height, width, seed)[0].permute(1, 2, 0).numpy())

    return made


@pytest.fixture(scope="session")
def tiny() -> Iterator[Weights]:
    """Return seeded weights of a network named `tiny`, for RGB in [0, 1], rescaled over generated pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(arch.NETWORKS, "tiny", TINY)
        generator = torch.Generator().manual_seed(7)
        kernels: dict[str, Tensor] = {}
        for conv in arch.list_convolutions("tiny"):
            spread = math.sqrt(2 / (9 * conv.inputs))
            shape = (conv.outputs, conv.inputs, 3, 3)
            kernels[f"{conv.name}.weight"] = spread * torch.randn(shape, generator=generator)
            kernels[f"{conv.name}.bias"] = 0.1 * torch.rand(conv.outputs, generator=generator)
        over = [_picture(64, 80, seed) for seed in range(3)]
        means = {way: model.compute_mean_activations(kernels, "tiny", way, over) for way in POOLINGS}
        yield Weights("tiny", "0" * 64, kernels, means, {"network": "tiny", "convention": "rgb"})


@pytest.fixture(scope="session")
def vgg16() -> Weights:
    """Return the embedded weights."""
    return registry.load_backbone(weights_module.EMBEDDED)


@pytest.fixture
def use_tiny(monkeypatch: pytest.MonkeyPatch, tiny: Weights) -> None:
    """Make every painter use the tiny network, and look for no faces."""
    monkeypatch.setattr(registry, "load_backbone", lambda _name: tiny)
    monkeypatch.setattr(MaskFinder, "faces", lambda *_: None)


@pytest.fixture
def painter(use_tiny: None) -> Painter:
    """Return a painter on the CPU that uses the tiny network."""
    return Painter(device="cpu")
