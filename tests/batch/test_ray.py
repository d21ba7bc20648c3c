"""Claims about batches on Ray: the same pictures as without it, whatever dies, and nothing on standard output.

The tests share a cluster of two workers with one CPU each; the network is a tiny one that the driver sends to them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images
from styler.batch import ray as ray_engine
from styler.batch.ray import ClusterConfig
from styler.batch.runner import BatchContext, BatchEvent, stylize_folder
from styler.cli import main
from styler.errors import ImageError, StylerError, UsageError
from styler.options import Options
from styler.vgg import arch, registry
from styler.vgg.weights import Weights

ray = pytest.importorskip("ray", reason="the ray extra is not installed")

OPTIONS = Options(size=64, first_size=64, iterations=3, device="cpu", threads=1)
CLUSTER = ClusterConfig(address="local", cpus_per_worker=1, cpus=2)
NAMES = ["a.x.png", "b.x.png", "c.x.png", "d.x.png", "e.x.png"]


@pytest.fixture(scope="module")
def slim() -> Weights:
    """Return seeded weights of a VGG-16 with few filters, a network whose name the workers know."""
    generator = torch.Generator().manual_seed(7)
    kernels: dict[str, Tensor] = {}
    inputs = 3
    for conv in arch.list_convolutions("vgg16"):
        outputs = 4 + 2 * conv.block
        kernels[f"{conv.name}.weight"] = (2 / (9 * inputs)) ** 0.5 * torch.randn(
            (outputs, inputs, 3, 3), generator=generator
        )
        kernels[f"{conv.name}.bias"] = 0.1 * torch.rand(outputs, generator=generator)
        inputs = outputs
    return Weights("vgg16", "1" * 64, kernels, {}, {"network": "vgg16", "convention": "rgb"})


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, slim: Weights
) -> Path:
    """Enter a folder with five photos and a painting."""
    monkeypatch.setattr(registry, "load_backbone", lambda _name: slim)
    for seed, name in enumerate(("a", "b", "c", "d", "e")):
        images.write_file(tmp_path / "photos" / f"{name}.png", images.encode_image(pixels(48, 64, seed)))
    images.write_file(tmp_path / "x.png", images.encode_image(pixels(48, 64, 9)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a cluster that the batches connect to; one of them starts its own."""
    connected, is_ours = ray_engine.connect_cluster(CLUSTER)
    assert (connected, is_ours) == (ray, True)
    yield
    ray.shutdown()


def paint(folder: Path, out: str, **fields: Any) -> Iterator[BatchEvent]:
    context = fields.pop("context", BatchContext(cluster=CLUSTER))
    yield from stylize_folder(
        "photos", "x.png", folder / out, fields.pop("options", OPTIONS), context=context, **fields
    )


def final_kinds(events: list[BatchEvent]) -> dict[str, str]:
    return {event.pair.output: event.kind for event in events if event.kind in ("done", "failed", "stopped")}


def list_workers() -> list[str]:
    """Return the titles of the processes that hold an actor."""
    titles = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie has no title either
            titles += [title for title in child.cmdline()[:1] if title.startswith("ray::Actor")]
    return titles


def make_deadly_decoder(victims: dict[str, tuple[Path, int]]) -> Callable[..., images.Picture]:
    """Return a decoder that kills its process at some pictures.

    Args:
        victims: for each of them the folder in which every death leaves a file, and the number of deaths.
    """

    def decode(data: bytes, *, name: str) -> images.Picture:
        marks, times = victims.get(name.rpartition("/")[2], (None, 0))
        if marks and len([*marks.iterdir()]) < times:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return images.read_image(data, name=name)

    return decode


def test_a_cluster_paints_the_same_pictures_as_this_process(
    folder: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "photos" / "f.png").write_text("no picture")
    remote, local = [*paint(folder, "remote")], [*paint(folder, "local", context=BatchContext())]
    assert final_kinds(remote) == final_kinds(local) == dict.fromkeys(NAMES, "done") | {"f.x.png": "failed"}
    for name in NAMES:
        pixels = [images.read_image(folder / out / name).pixels for out in ("local", "remote")]
        assert (pixels[0] == pixels[1]).all()
    (error,) = (event.text for event in remote if event.kind == "failed")
    assert error == "Cannot read 'photos/f.png': it is text, not a picture; check that this is the file you mean."
    assert {event.kind for event in remote} >= {"started", "progress", "done"}
    assert (folder / "remote" / "index.html").is_file()
    assert capfd.readouterr().out == ""
    assert [*paint(folder, "remote")] == []


def test_the_death_of_workers_costs_no_picture_but_the_one_that_kills_them(
    folder: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The photos are at URLs here, which the workers open themselves."""
    for name in ("b.png", "e.png"):
        (folder / name).mkdir()
    context = BatchContext(
        cluster=CLUSTER, decode=make_deadly_decoder({"b.png": (folder / "b.png", 1), "e.png": (folder / "e.png", 9)})
    )
    arguments = (f"file://{folder}/photos", f"file://{folder}/x.png", folder / "out", OPTIONS.replace(iterations=30))
    events = [*stylize_folder(*arguments, context=context)]
    assert final_kinds(events) == dict.fromkeys(NAMES, "done") | {"e.x.png": "failed"}
    assert [len([*(folder / name).iterdir()]) for name in ("b.png", "e.png")] == [1, 3]
    restarted = [event.pair.output for event in events if "Its worker died" in event.text]
    assert restarted.count("b.x.png") >= 1
    assert len(restarted) <= 2 * 4, "a death costs at most the two pictures that the worker held"
    (error,) = (event.text for event in events if event.kind == "failed")
    assert error.startswith("3 workers died while they painted this picture, perhaps out of memory; use a smaller")
    assert capfd.readouterr().out == ""


def test_stop_discards_the_pictures_in_progress_and_ends_the_workers(
    folder: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is lost for the last worker, as for one that is being restarted when it arrives."""
    real = ray_engine.RayEngine.stop

    def lose_call(self: ray_engine.RayEngine) -> None:
        last, handle = self._actors[-1], self._actors[-1].handle
        last.handle = SimpleNamespace(stop=SimpleNamespace(remote=lambda: None))
        real(self)
        last.handle = handle

    monkeypatch.setattr(ray_engine.RayEngine, "stop", lose_call)
    stop = threading.Event()
    started: set[str] = set()
    events = []
    for event in paint(folder, "out", options=OPTIONS.replace(iterations=5000), stop=stop):
        events.append(event)
        started |= {event.pair.output} if event.kind == "progress" else set()
        if len(started) == CLUSTER.cpus:
            stop.set()
    assert set(final_kinds(events).values()) == {"stopped"}
    assert len(final_kinds(events)) >= 2
    deadline = time.monotonic() + 10
    while list_workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list_workers()


def test_an_error_that_concerns_every_picture_is_raised_at_once(folder: Path, cluster: None) -> None:
    with pytest.raises(StylerError, match="relu5_4"):
        next(paint(folder, "out", options=OPTIONS.replace(style_layers=("relu5_4",))))
    with pytest.raises(UsageError, match="No machine of the cluster has 64 CPUs"):
        next(paint(folder, "out", context=BatchContext(cluster=replace(CLUSTER, cpus_per_worker=64))))
    with pytest.raises(UsageError, match="memory:// files are not visible to Ray workers"):
        next(stylize_folder("memory://photos/a.png", "x.png", "out", OPTIONS, context=BatchContext(cluster=CLUSTER)))


def test_the_command_starts_and_ends_its_own_cluster(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if ray.is_initialized():
        ray.shutdown()
    handler = signal.getsignal(signal.SIGTERM)
    cpus = str(max(1, (os.cpu_count() or 1) // 2))
    tokens = ["--size", "64", "--first-size", "64", "--iterations", "2", "--threads", "1", "--device", "cpu"]
    engine = ["--engine", "ray", "--ray-address", "local", "--cpus-per-worker", cpus]
    assert main(["batch", "photos", "x.png", "-o", "out", *tokens, *engine, "--no-progress"]) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [f"out/{name}" for name in NAMES]
    assert "5 done, 0 failed, 0 skipped" in err
    assert len(err.splitlines()) == 1, "Ray prints nothing"
    assert signal.getsignal(signal.SIGTERM) == handler
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not ray.is_initialized()
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]
    assert (
        main(["batch", "photos", "x.png", "-o", "far", *tokens, "--engine", "ray", "--ray-address", "127.0.0.1:1"]) == 1
    )
    assert "Cannot reach the Ray cluster at '127.0.0.1:1'" in capfd.readouterr().err


def test_fetching_a_missing_file_fails_as_reading_it_does(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^Cannot read '.*gone.png': there is no such file; check the name"):
        images.fetch_image_bytes(tmp_path / "gone.png")
