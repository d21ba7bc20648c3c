"""Claims about the batch on Ray: the same pictures as here, whatever dies meanwhile, and nothing on standard output.

One cluster for all, of two workers with a processor each; the network is a tiny one that the driver sends to them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images
from styler.batch import ray as cluster_of
from styler.batch.runner import BatchEvent, stylize_folder
from styler.batch.worker import BatchContext, ClusterConfig
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
    """Seeded weights of a VGG-16 with few filters; its workers know networks of that name."""
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
    """The working folder, with five photos and a painting."""
    monkeypatch.setattr(registry, "load_backbone", lambda _name: slim)
    for seed, name in enumerate(("a", "b", "c", "d", "e")):
        images.write_file(tmp_path / "photos" / f"{name}.png", images.encode_image(pixels(48, 64, seed)))
    images.write_file(tmp_path / "x.png", images.encode_image(pixels(48, 64, 9)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that the batches find and leave; one of them starts its own."""
    connected, ours = cluster_of.connect_cluster(CLUSTER)
    assert (connected, ours) == (ray, True)
    yield
    ray.shutdown()


def painted(folder: Path, out: str, **more: Any) -> Iterator[BatchEvent]:
    tools = more.pop("tools", BatchContext(cluster=CLUSTER))
    yield from stylize_folder("photos", "x.png", folder / out, more.pop("options", OPTIONS), tools=tools, **more)


def ends(told: list[BatchEvent]) -> dict[str, str]:
    return {event.pair.output: event.kind for event in told if event.kind in ("done", "failed", "stopped")}


def workers() -> list[str]:
    """The processes that hold an actor, by their titles."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie has no title either
            found += [title for title in child.cmdline()[:1] if title.startswith("ray::Actor")]
    return found


def deadly(victims: dict[str, tuple[Path, int]]) -> Callable[..., images.Picture]:
    """What decodes pictures, and kills its process at some of them: so many times, each marked in a folder."""

    def decode(data: bytes, *, name: str) -> images.Picture:
        marks, times = victims.get(name.rpartition("/")[2], (None, 0))
        if marks and len([*marks.iterdir()]) < times:
            (marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return images.read_image(data, name=name)

    return decode


def test_pictures_are_those_of_the_local_engine(folder: Path, cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "f.png").write_text("no picture")
    there, here = [*painted(folder, "there")], [*painted(folder, "here", tools=BatchContext())]
    assert ends(there) == ends(here) == dict.fromkeys(NAMES, "done") | {"f.x.png": "failed"}
    for name in NAMES:
        ours, theirs = (images.read_image(folder / out / name).pixels for out in ("here", "there"))
        assert (ours == theirs).all()
    (why,) = (event.text for event in there if event.kind == "failed")
    assert why == "Cannot read 'photos/f.png': it is text, not a picture; check that this is the file you mean."
    assert {event.kind for event in there} >= {"started", "progress", "done"}
    assert (folder / "there" / "index.html").is_file()
    assert capfd.readouterr().out == ""
    assert [*painted(folder, "there")] == []


def test_workers_that_die_cost_no_picture_but_one_that_they_die_of(
    folder: Path, cluster: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """The photos are at URLs here, which the workers open themselves."""
    for name in ("b.png", "e.png"):
        (folder / name).mkdir()
    tools = BatchContext(
        cluster=CLUSTER, decode=deadly({"b.png": (folder / "b.png", 1), "e.png": (folder / "e.png", 9)})
    )
    asked = (f"file://{folder}/photos", f"file://{folder}/x.png", folder / "out", OPTIONS.replace(iterations=30))
    told = [*stylize_folder(*asked, tools=tools)]
    assert ends(told) == dict.fromkeys(NAMES, "done") | {"e.x.png": "failed"}
    assert [len([*(folder / name).iterdir()]) for name in ("b.png", "e.png")] == [1, 3]
    lost = [event.pair.output for event in told if "The worker that had it died" in event.text]
    assert lost.count("b.x.png") >= 1
    assert len(lost) <= 2 * 4, "of every death two at most: what was in the worker's hands"
    (why,) = (event.text for event in told if event.kind == "failed")
    assert why.startswith("3 workers died with this picture in their hands, perhaps for want of memory; take a smaller")
    assert capfd.readouterr().out == ""


def test_stop_drops_what_is_in_work_and_a_second_run_goes_on(folder: Path, cluster: None) -> None:
    stop = threading.Event()
    told = []
    for event in painted(folder, "out", options=OPTIONS.replace(iterations=2000), stop=stop):
        told.append(event)
        if event.kind == "progress":
            stop.set()
    assert {"stopped"} <= set(ends(told).values()) <= {"stopped", "done"}
    end = time.monotonic() + 10
    while workers() and time.monotonic() < end:
        time.sleep(0.05)
    assert not workers()


def test_what_is_wrong_with_every_picture_is_told_at_once(folder: Path, cluster: None) -> None:
    with pytest.raises(StylerError, match="relu9_9"):
        next(painted(folder, "out", options=OPTIONS.replace(style_layers=("relu9_9",), layer_weights=(1,))))
    with pytest.raises(UsageError, match="No machine of the cluster has 64 processors for a worker"):
        next(painted(folder, "out", tools=BatchContext(cluster=replace(CLUSTER, cpus_per_worker=64))))
    with pytest.raises(UsageError, match="What is at memory:// no other process sees"):
        next(stylize_folder("memory://photos/a.png", "x.png", "out", OPTIONS, tools=BatchContext(cluster=CLUSTER)))


def test_the_command_starts_and_ends_a_cluster_of_its_own(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if ray.is_initialized():
        ray.shutdown()
    heard = signal.getsignal(signal.SIGTERM)
    cpus = str(max(1, (os.cpu_count() or 1) // 2))
    tokens = ["--size", "64", "--first-size", "64", "--iterations", "2", "--threads", "1", "--device", "cpu"]
    more = ["--engine", "ray", "--ray-address", "local", "--cpus-per-worker", cpus]
    assert main(["batch", "photos", "x.png", "-o", "out", *tokens, *more, "--no-progress"]) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [f"out/{name}" for name in NAMES]
    assert "5 done, 0 failed, 0 skipped" in err
    assert len(err.splitlines()) == 1, "Ray says nothing"
    assert signal.getsignal(signal.SIGTERM) == heard
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert not ray.is_initialized()
    assert not [child for child in psutil.Process().children(recursive=True) if "ray" in child.name()]
    assert (
        main(["batch", "photos", "x.png", "-o", "far", *tokens, "--engine", "ray", "--ray-address", "127.0.0.1:1"]) == 1
    )
    assert "Ray's cluster at '127.0.0.1:1' cannot be reached" in capfd.readouterr().err


def test_bytes_of_a_missing_file_are_refused_as_reading_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^Cannot read '.*gone.png': there is no such file; check the name"):
        images.fetch_image_bytes(tmp_path / "gone.png")
