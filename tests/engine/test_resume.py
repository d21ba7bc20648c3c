"""Paintings that go on from a snapshot: the same pixels as without an interruption, or a sentence that says why not."""

import copy
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from styler import images
from styler.engine import budget
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.engine.resume.file import decode_tree, encode_tree
from styler.engine.resume.state import Snapshot
from styler.errors import ResumeError, UsageError
from styler.objective.terms import Objective
from styler.options import Options
from styler.regions.areas import Areas, normalize_regions
from styler.schedule import Replay, Scale

Array = NDArray[Any]
Arguments = dict[str, Any]
Pixels = Callable[..., Array]
PLAIN = Options(size=64, first_size=32, iterations=6, taper=1.0, device="cpu", precision="fp32", brushwork=0.0)
"""Six iterations at 32 pixels by L-BFGS, six at 64 by Adam."""
STROKES = PLAIN.replace(brushwork=60.0, iterations=8, first_size=64)
"""Eight iterations at one scale, where matches are found again after five."""
LEFT = torch.cat([torch.ones(1, 1, 64, 30), torch.zeros(1, 1, 64, 34)], dim=3)


def divide() -> Areas:
    """Return two regions, each with a style, and something protected."""
    protection = torch.zeros(1, 1, 64, 64)
    protection[..., 40:, 40:] = 0.8
    return Areas.of(normalize_regions([LEFT]), [(0,), (1,)], protection)


CASES: dict[str, Arguments] = {
    "both optimizers": {"options": PLAIN},
    "lbfgs": {"options": PLAIN.replace(optimizer="lbfgs", iterations=14, first_size=64)},
    "strokes": {"options": STROKES},
    "strokes of a fixed query": {"options": STROKES.replace(optimizer="lbfgs", iterations=4)},
    "a sketch": {"options": STROKES.replace(sketch=0.5, iterations=6, first_size=32)},
    "half-size copies": {"options": PLAIN, "replay": Replay((Scale(64, 64, 6, "adam", half_size_copies=1),), 64, 64)},
    "regions": {"options": STROKES.replace(iterations=7, multiscale=1.0), "areas": divide()},
    "kept colors": {"options": PLAIN.replace(keep_color=0.5, iterations=3)},
    "patience": {"options": PLAIN.replace(patience=5, iterations=14, optimizer="adam")},
    "noise": {"options": PLAIN.replace(init="noise", iterations=3)},
}


@pytest.fixture
def styles(pixels: Pixels) -> list[Array]:
    return [pixels(48, 64, 2), pixels(64, 48, 3)]


def drain(reports: Iterator[Progress]) -> Result:
    """Return the result of the last report."""
    *_, last = reports
    assert last.result is not None
    return last.result


def check_same(ours: Result, theirs: Result) -> None:
    """Check that two results are equal to the last bit, except for the time they took."""
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert dict(ours.losses) == dict(theirs.losses)
    assert (ours.schedule, ours.units, ours.notes) == (theirs.schedule, theirs.units, theirs.notes)
    assert len(ours.scale_seconds) == len(theirs.scale_seconds)


def pass_through_file(snapshot: Snapshot, folder: Path) -> Snapshot:
    return Snapshot.load(snapshot.save(folder / "state"))


@pytest.mark.parametrize("case", CASES)
def test_a_painting_goes_on_to_the_same_pixels_after_any_iteration(
    case: str, use_tiny: None, content: Array, styles: list[Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MIN_GAIN", 0.9)  # with `patience`, every scale is cut
    given = CASES[case]
    painting: Arguments = {"content": content, "styles": styles if "areas" in given else styles[:1], **given}
    snapshots: list[Snapshot] = []
    for progress in Painter(device="cpu").stream(**painting):
        if progress.result is None:
            snapshots.append(pass_through_file(progress.snapshot(), tmp_path))
        else:
            whole = progress.result
    assert len(snapshots) == whole.iterations
    if whole.options.patience:
        assert whole.iterations < 2 * whole.options.iterations
    ends = [*itertools.accumulate(scale.iterations for scale in whole.schedule)]
    chosen = {*range(0, len(snapshots), 1 + len(snapshots) // 4), *(end - 1 for end in ends), *ends[:-1]}
    for snapshot in (snapshots[index] for index in sorted(chosen)):
        check_same(drain(Painter(device="cpu").stream(**painting, resume=snapshot)), whole)


def test_a_painting_can_be_resumed_repeatedly(painter: Painter, content: Array, styles: list[Array]) -> None:
    whole, snapshot = painter.stylize(content, styles[0], STROKES), None
    for _ in range(whole.iterations):
        progress = next(painter.stream(content, styles[0], STROKES, resume=snapshot))
        snapshot = progress.snapshot()
    assert progress.total_iterations == whole.iterations
    check_same(painter.stylize(content, styles[0], STROKES, resume=snapshot), whole)


def test_a_snapshot_serves_more_than_one_run(painter: Painter, content: Array, styles: list[Array]) -> None:
    stream = painter.stream(content, styles[0], STROKES)
    snapshot = next(itertools.islice(stream, 2, None)).snapshot()
    results = [drain(stream), *(painter.stylize(content, styles[0], STROKES, resume=snapshot) for _ in range(2))]
    check_same(results[0], results[1])
    check_same(results[0], results[2])


def test_seconds_are_summed(painter: Painter, content: Array, styles: list[Array]) -> None:
    snapshot = next(painter.stream(content, styles[0], PLAIN)).snapshot()
    snapshot.state["clock"][0] += 1000
    result = painter.stylize(content, styles[0], PLAIN, resume=snapshot)
    assert 1000 < result.seconds < 1100
    assert 1000 < sum(result.scale_seconds) < 1100


def test_a_painting_that_adopted_its_opening_goes_on(
    use_tiny: None, content: Array, styles: list[Array], tmp_path: Path
) -> None:
    options = PLAIN.replace(size=256, first_size=128, iterations=24, taper=0.1)
    painter = Painter(device="cpu")
    assert len([*painter.previews(content, styles[0], options)]) == 1
    stream = painter.stream(content, styles[0], options)
    snapshots = [pass_through_file(next(stream).snapshot(), tmp_path) for _ in range(2)]
    whole = drain(stream)
    assert whole.schedule[0].opening
    assert whole.scale_seconds[0] == 0
    for snapshot in snapshots:  # another process knows no shared scale
        check_same(Painter(device="cpu").stylize(content, styles[0], options, resume=snapshot), whole)


@pytest.mark.parametrize("bad", [{2}, {7}, {6, 8}])
def test_recovered_iterations_are_counted_on(
    bad: set[int], painter: Painter, content: Array, styles: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient, count = Objective.gradient, itertools.count()

    def fail(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        terms, slope = gradient(self, image)
        return terms | {"total": terms["total"] * (math.nan if next(count) in bad else 1)}, slope

    monkeypatch.setattr(Objective, "gradient", fail)
    whole = painter.stylize(content, styles[0], PLAIN)
    assert any("not finite" in note for note in whole.notes)
    for done in (3, 8, 9, 12):
        count = itertools.count()
        snapshot = next(itertools.islice(painter.stream(content, styles[0], PLAIN), done - 1, None)).snapshot()
        check_same(painter.stylize(content, styles[0], PLAIN, resume=snapshot), whole)


def test_memory_that_ran_out_before_is_known(
    painter: Painter, content: Array, styles: list[Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient, count = Objective.gradient, itertools.count()

    def fail(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if next(count) == 8:
            raise MemoryError
        return gradient(self, image)

    monkeypatch.setattr(Objective, "gradient", fail)
    stream = painter.stream(content, styles[0], PLAIN)
    snapshot = next(itertools.islice(stream, 9, None)).snapshot()
    whole = drain(stream)
    assert any("Memory ran out" in note for note in whole.notes)
    check_same(painter.stylize(content, styles[0], PLAIN, resume=snapshot), whole)


def test_a_resumed_painting_can_be_stopped(painter: Painter, content: Array, styles: list[Array]) -> None:
    stop = threading.Event()
    stop.set()
    stream = painter.stream(content, styles[0], PLAIN)
    snapshot = next(itertools.islice(stream, 8, None)).snapshot()
    stopped = painter.stylize(content, styles[0], PLAIN, stop, resume=snapshot)
    assert stopped.stopped
    assert [scale.iterations for scale in stopped.schedule] == [6, 3]
    stop.clear()
    for progress in painter.stream(content, styles[0], PLAIN, stop):
        if progress.total_iterations == 9:
            stop.set()
    assert progress.result is not None
    check_same(stopped, progress.result)


def test_a_time_budget_counts_what_was_used(painter: Painter, content: Array, styles: list[Array]) -> None:
    options = PLAIN.replace(time=600.0)
    snapshot = next(painter.stream(content, styles[0], options)).snapshot()
    snapshot.state["clock"][0] += 599.9
    result = painter.stylize(content, styles[0], options, resume=snapshot)
    assert result.seconds >= 599.9
    assert result.iterations < 100


def test_a_snapshot_is_refused_once_the_next_iteration_has_begun(
    painter: Painter, content: Array, styles: list[Array]
) -> None:
    first, *_, last = painter.stream(content, styles[0], PLAIN)
    for progress in (first, last):
        with pytest.raises(UsageError, match=r"until the next iteration begins, and none once a painting has ended\.$"):
            progress.snapshot()


def test_a_later_iteration_leaves_a_snapshot_as_it_is(painter: Painter, content: Array, styles: list[Array]) -> None:
    stream = painter.stream(content, styles[0], STROKES)
    snapshot = next(itertools.islice(stream, 2, None)).snapshot()
    before = copy.deepcopy(snapshot.state)
    next(stream)
    assert repr(snapshot.state) == repr(before)
    for name in ("image", "best", "first", "second"):
        assert torch.equal(snapshot.state["optimizer"][name], before["optimizer"][name])


# Refused


CHANGES: list[tuple[str, Arguments]] = [
    (r"the photo has changed; give what was given before, or begin again", {"content": 5}),
    (r"the style has changed", {"styles": [5]}),
    (r"it has 2 styles and had 1", {"styles": [2, 5]}),
    (r"the option strength is 60 and was 50", {"options": PLAIN.replace(strength=60.0)}),
    (r"the option seed is 1 and was 0", {"options": PLAIN.replace(seed=1)}),
    (r"the option size is 65 and was 64", {"options": PLAIN.replace(size=65)}),
    (r"the picture to start from has changed", {"start": 5}),
    (r"its masks have changed", {"areas": Areas.of(normalize_regions([LEFT]), [(0,), (0,)])}),
    (r"its schedule has changed", {"replay": Replay((Scale(64, 64, 4, "adam"),), 64, 64)}),
]


@pytest.mark.parametrize(("message", "changes"), CHANGES, ids=[message for message, _ in CHANGES])
def test_another_painting_is_refused(
    message: str,
    changes: Arguments,
    painter: Painter,
    content: Array,
    styles: list[Array],
    pixels: Callable[..., Array],
) -> None:
    start = pixels(64, 64, 7) if "start" in changes else None
    snapshot = next(painter.stream(content, styles[0], PLAIN, start=start)).snapshot()
    changed: Arguments = {"options": PLAIN, **changes}
    changed["content"] = pixels(64, 64, changed.get("content", 1))
    changed["styles"] = [pixels(48, 64, seed) for seed in changed.get("styles", [2])]
    changed["start"] = pixels(64, 64, changed["start"]) if "start" in changed else None
    with pytest.raises(ResumeError, match=rf"^The painting cannot be resumed: {message}") as caught:
        next(painter.stream(**changed, resume=snapshot))
    assert "; " in str(caught.value)


def test_a_changed_mask_is_named(painter: Painter, content: Array, styles: list[Array]) -> None:
    options, mask = PLAIN.replace(protect=("sky.png=80",)), LEFT[0, 0].numpy()
    stream = painter.stream(content, styles[0], options, masks={"sky.png": mask})
    snapshot = next(stream).snapshot()
    with pytest.raises(ResumeError, match=r"the mask 'sky\.png' has changed; "):
        next(painter.stream(content, styles[0], options, masks={"sky.png": 1 - mask}, resume=snapshot))
    check_same(painter.stylize(content, styles[0], options, masks={"sky.png": mask}, resume=snapshot), drain(stream))


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ("torch", "the version of PyTorch is .* and was other"),
        ("styler", "the version of styler"),
        ("device", "the device is cpu and was other"),
        ("processor", "the processor"),
        ("precision", "the precision is float32 and was other"),
        ("threads", "the number of threads"),
        ("network", "the network has changed"),
        ("slim", "the slim network has changed"),
    ],
)
def test_another_machine_is_refused(
    fact: str, message: str, painter: Painter, content: Array, styles: list[Array]
) -> None:
    snapshot = next(painter.stream(content, styles[0], PLAIN)).snapshot()
    other = Snapshot({**snapshot.identity, fact: "other"}, snapshot.state)
    with pytest.raises(
        ResumeError, match=rf"{message}.*, so that the pixels would differ; undo that, or begin again\.$"
    ):
        next(painter.stream(content, styles[0], PLAIN, resume=other))


def test_options_that_change_no_pixel_may_change(painter: Painter, content: Array, styles: list[Array]) -> None:
    stream = painter.stream(content, styles[0], PLAIN)
    snapshot = next(stream).snapshot()
    options = PLAIN.replace(checkpoint="on", memory=10**11)
    check_same(painter.stylize(content, styles[0], options, resume=snapshot), drain(stream))


# Files


def test_a_file_holds_a_tree(tmp_path: Path) -> None:
    tree = {"a": [1, 0.1, math.inf, "é", None, True, {"b": torch.arange(3)}], "c": torch.tensor(0.5), "d": {}}
    (tmp_path / "state").write_bytes(b"".join(encode_tree(tree)))
    found = decode_tree(tmp_path / "state")
    assert torch.equal(found["a"].pop()["b"], torch.arange(3))
    assert found["a"] == tree["a"][:-1]  # type: ignore[index]
    assert found["c"].item() == 0.5
    assert list(found) == list(tree)


def test_a_file_is_as_the_library_writes_it_and_is_written_without_copies_of_tensors(tmp_path: Path) -> None:
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool]
    kinds += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    tensors = [(torch.arange(35).view(5, 7) % 3).to(kind) for kind in kinds]
    parts = encode_tree({"tensors": tensors})
    for tensor, part in zip(tensors, parts[2:], strict=True):
        assert np.frombuffer(part, np.uint8).ctypes.data == tensor.data_ptr()
    path = images.write_file(tmp_path / "state", *parts)
    with safe_open(path, "pt") as file:
        metadata, stored = file.metadata(), [file.get_tensor(key) for key in sorted(file.keys())]
    for ours, theirs in zip(stored, tensors, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    again = save({f"{number:04}": tensor for number, tensor in enumerate(tensors)}, metadata)
    assert len(again) == path.stat().st_size


def test_a_state_is_saved_while_the_painting_goes_on(
    painter: Painter, content: Array, styles: list[Array], tmp_path: Path
) -> None:
    """The state that is written without a copy is that of the moment."""
    stream = painter.stream(content, styles[0], PLAIN)
    progress = next(itertools.islice(stream, 5, None))
    snapshot = progress.snapshot()
    path = progress.save_state(tmp_path / "state")
    result, saved = drain(stream), Snapshot.load(path)
    kept = {name: value for name, value in snapshot.state["optimizer"].items() if isinstance(value, Tensor)}
    assert {"image", "gradient"} <= kept.keys()
    assert all(torch.equal(saved.state["optimizer"][name], value) for name, value in kept.items())
    check_same(painter.stylize(content, styles[0], PLAIN, resume=saved), result)
    with pytest.raises(UsageError, match="until the next iteration begins"):
        progress.save_state(path)


def damage(data: bytes, how: str) -> bytes:
    """Return the bytes of a file after an accident."""
    if how == "truncated":
        return data[: len(data) // 2]
    if how == "a bit":
        return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    if how == "a number":
        return data.replace(b'\\"done\\":1', b'\\"done\\":2')
    if how == "a picture":
        return b"\x89PNG\r\n\x1a\n" + bytes(100)
    return {"empty": b"", "a header": b"\xff" * 64, "nothing in it": b"".join(encode_tree({}))}[how]


@pytest.mark.parametrize("how", ["truncated", "a bit", "a number", "a picture", "empty", "a header", "nothing in it"])
def test_a_damaged_file_is_refused(
    how: str, painter: Painter, content: Array, styles: list[Array], tmp_path: Path
) -> None:
    data = next(painter.stream(content, styles[0], PLAIN)).snapshot().encode()
    damaged = damage(data, how)
    assert damaged != data
    (tmp_path / "state").write_bytes(damaged)
    with pytest.raises(ResumeError, match=r"damaged; remove it, and begin again\.$"):
        Snapshot.load(tmp_path / "state")


def test_a_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("styler.engine.resume.file.FORMAT", 99)
        (tmp_path / "state").write_bytes(b"".join(encode_tree({"identity": {}, "state": {}})))
    with pytest.raises(ResumeError, match="was written by another version of styler; remove it"):
        Snapshot.load(tmp_path / "state")


def test_a_state_with_something_missing_is_refused(painter: Painter, content: Array, styles: list[Array]) -> None:
    snapshot = next(painter.stream(content, styles[0], PLAIN)).snapshot()
    for name in snapshot.state:
        less = Snapshot(snapshot.identity, {key: value for key, value in snapshot.state.items() if key != name})
        with pytest.raises(ResumeError, match="damaged"):
            next(painter.stream(content, styles[0], PLAIN, resume=less))


def test_the_file_names_no_files(painter: Painter, content: Array, styles: list[Array], tmp_path: Path) -> None:
    path = next(painter.stream(content, styles[0], PLAIN)).snapshot().save(tmp_path / "state")
    assert json.loads(json.dumps(decode_tree(path)["identity"]))["threads"] >= 1
    assert str(tmp_path).encode() not in path.read_bytes()
