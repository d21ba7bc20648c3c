"""The state of a painting between two iterations: what is saved of a run, and how another run goes on from it.

Everything that would be computed again with the same bits is left out: targets, the features of matched places (only
the indices of the matches are kept), what the objective knows of the photo and the styles.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from styler import images, provenance
from styler.engine.device import name_processor
from styler.engine.optimizers import AdamState, LbfgsState
from styler.engine.resume.file import BEGIN_AGAIN, decode_tree, encode_tree
from styler.errors import ResumeError, UsageError
from styler.objective.terms import Objective
from styler.objective.wasserstein import RootTangent
from styler.options import format_value
from styler.schedule import Scale

if TYPE_CHECKING:
    from styler.engine.run import Run

FREE_OPTIONS = ("device", "precision", "threads", "checkpoint", "tile", "memory")
"""Options that change no pixel, or that are compared by what was chosen."""
MACHINE_FACTS = {
    "styler": "version of styler",
    "torch": "version of PyTorch",
    "device": "device",
    "processor": "processor",
    "precision": "precision",
    "threads": "number of threads",
    "network": "network",
    "slim": "slim network",
}
_OPTIMIZERS = {"adam": AdamState, "lbfgs": LbfgsState}


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state of a painting after an iteration, with which `Painter.stream` goes on to the same pixels."""

    identity: Mapping[str, Any]
    """All that determines the pixels, by hashes: inputs, settings, networks, machine."""
    state: Mapping[str, Any]
    """A tree of numbers, texts and tensors on the CPU."""

    def encode(self) -> bytes:
        """Return the bytes of a file, in the format safetensors."""
        return b"".join(self._encode_parts())

    def _encode_parts(self) -> list[bytes | memoryview]:
        return encode_tree({"identity": self.identity, "state": self.state})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a file, which replaces an earlier one when it is complete and flushed to the disk.

        Raises:
            OutputError: it cannot be written.
        """
        return images.write_file(path, *self._encode_parts(), overwrite=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Snapshot":
        """Read a file that `save` has written.

        Raises:
            FileNotFoundError: there is none.
            ResumeError: it cannot be read, or is damaged.
        """
        tree = decode_tree(path)
        if not all(isinstance(tree.get(name), dict) for name in ("identity", "state")):
            raise ResumeError("its state is damaged", BEGIN_AGAIN)
        return cls(tree["identity"], tree["state"])


@dataclass(slots=True, eq=False)
class ScaleWork:
    """The work at one scale so far."""

    index: int
    """Of the scale, from 0."""
    start_seconds: float
    """When it began."""
    done: int = 0
    """Iterations made."""
    before: int = 0
    """Those made before the optimizer began; more than 0 once memory has run out."""
    optimizer: AdamState | LbfgsState | None = None
    """None before its first iteration."""
    objective: Objective | None = None
    restored: Mapping[str, Any] | None = None
    """What a new objective takes from a snapshot before its first evaluation."""
    adopted: Tensor | None = None
    """The image of a scale that was not painted but adopted, (1, 3, H, W)."""

    @property
    def is_begun(self) -> bool:
        """Whether there is an image to go on with."""
        return self.optimizer is not None or self.adopted is not None

    def begin_again(self) -> None:
        """Note that another optimizer begins from the best image."""
        if self.optimizer is not None:
            self.optimizer.forget()  # the last step still refers to it
        self.before, self.optimizer, self.objective, self.restored = self.done, None, None, None


def identify(run: "Run") -> dict[str, Any]:
    """Return all that determines the pixels of a run; called inside one of its steps, as threads belong to those."""
    options = {name: value for name, value in run.options.to_dict().items() if name not in FREE_OPTIONS}
    return {
        "content": run.content.digest,
        "styles": [style.digest for style in run.styles],
        "start": "" if run.start is run.content else run.start.digest,
        "masks": [[mask.name, mask.sha256] for mask in run.masks],
        "areas": run.areas.digest if run.areas else "",
        "options": {name: None if value is None else format_value(value) for name, value in options.items()},
        "schedule": [dataclasses.asdict(scale) for scale in run.schedule],
        "styler": provenance.get_version(),
        "torch": torch.__version__,
        "device": str(run.features.device),
        "processor": name_processor(run.features.device),
        "precision": str(run.features.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "network": run.features.sha256,
        "slim": run.slim.sha256,
    }


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a snapshot is of the painting that is to go on.

    Raises:
        ResumeError: it is not; names the first difference.
    """
    if before.keys() != now.keys():
        raise ResumeError("its state is damaged", BEGIN_AGAIN)
    same = "give what was given before, or begin again"
    if len(before["styles"]) != len(now["styles"]):
        raise ResumeError(f"it has {len(now['styles'])} styles and had {len(before['styles'])}", same)
    names = [f"style {number + 1}" for number in range(len(now["styles"]))] if len(now["styles"]) > 1 else ["the style"]
    inputs = [("the photo", "content"), ("the picture to start from", "start")]
    pairs = [(label, before[key], now[key]) for label, key in inputs]
    for label, earlier, later in (*pairs, *zip(names, before["styles"], now["styles"], strict=True)):
        if earlier != later:
            raise ResumeError(f"{label} has changed", same, label)
    for name, value in now["options"].items():
        if (earlier := before["options"].get(name)) != value:
            raise ResumeError(f"the option {name} is {value or 'not set'} and was {earlier or 'not set'}", same)
    _check_masks(before, now, same)
    for key, label in MACHINE_FACTS.items():
        if before[key] != now[key]:
            facts = "has changed" if key in ("network", "slim") else f"is {now[key]} and was {before[key]}"
            raise ResumeError(f"the {label} {facts}, so that the pixels would differ", "undo that, or begin again")
    if before["schedule"] != now["schedule"]:
        raise ResumeError("its schedule has changed", same)


def _check_masks(before: Mapping[str, Any], now: Mapping[str, Any], same: str) -> None:
    """Check that the masks are the same."""
    hashes = dict(before["masks"])
    for name, sha256 in now["masks"]:
        if hashes.get(name) != sha256:
            raise ResumeError(f"the mask '{name}' has changed", same, f"the mask '{name}'")
    if before["areas"] != now["areas"]:
        raise ResumeError("its masks have changed", same)


def capture(run: "Run", *, copy: bool = True) -> dict[str, Any]:
    """Return the state of a run between two iterations, on the CPU.

    Args:
        run: that is painted.
        copy: whether what later iterations would modify is copied.
    """
    work = run.work
    assert work is not None
    tree = {
        "index": work.index,
        "done": work.done,
        "before": work.before,
        "start_seconds": work.start_seconds,
        "adopted": work.adopted,
        "optimizer": work.optimizer and _export_optimizer(work.optimizer, copy=copy),
        "objective": {} if work.objective is None else _export_objective(work.objective),
        "losses": run.losses,
        "best_losses": run.best_losses,
        "schedule": [dataclasses.asdict(scale) for scale in run.schedule],
        "executed": [dataclasses.asdict(scale) for scale in run.executed],
        "scale_seconds": run.scale_seconds,
        "adopted_scales": run.adopted_scales,
        "clock": [run.clock.seconds, run.clock.done, run.clock.total],
        "budget": run.budget.export() if run.budget else None,
        "notes": run.notes,
        "rungs": run.ladder.export(),
    }
    moved: dict[str, Any] = _move(tree, torch.device("cpu"))
    return moved


def _export_optimizer(state: AdamState | LbfgsState, *, copy: bool) -> dict[str, Any]:
    """Return the fields of a state; with `copy`, Adam's moments are copied, since it modifies them."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    if isinstance(state, AdamState):
        fields |= {name: fields[name].to("cpu", copy=copy) for name in ("first", "second")}
    return fields


def _export_objective(objective: Objective) -> dict[str, Any]:
    """Return what an objective and its half-size copies remember of earlier evaluations."""
    matching = objective.matching
    roots = [
        part.roots
        and {"turn": part.roots.turn, "found": [[*place, *tangent] for place, tangent in part.roots.found.items()]}
        for part in _list_parts(objective)
    ]
    return {
        "evaluations": matching.evaluations if matching else 0,
        "matches": matching.found.indices if matching and matching.found else None,
        "roots": roots,
    }


def _list_parts(objective: Objective) -> Iterator[Objective]:
    """Yield an objective and those of its half-size copies."""
    part: Objective | None = objective
    while part is not None:
        yield part
        part = part.half_size.objective if part.half_size else None


def restore_objective(objective: Objective, exported: Mapping[str, Any]) -> None:
    """Give a new objective what an earlier one remembered."""
    if objective.matching is not None and exported["matches"] is not None:
        objective.matching.restore(exported["evaluations"], exported["matches"])
    for part, roots in zip(_list_parts(objective), exported["roots"], strict=True):
        if part.roots is not None and roots is not None:
            part.roots.turn = roots["turn"]
            part.roots.found |= {
                (layer, region): RootTangent(offset, slope) for layer, region, offset, slope in roots["found"]
            }


def restore(run: "Run", snapshot: Snapshot) -> ScaleWork:
    """Put a new run into the state of a snapshot and return the work at its current scale.

    Raises:
        ResumeError: the snapshot is of another painting, or damaged.
    """
    check_identity(snapshot.identity, run.identity)
    try:
        run.ladder.restore(snapshot.state["rungs"])
        scale = Scale(**snapshot.state["schedule"][snapshot.state["index"]])
        rung = run.ladder.choose(scale, is_shared=run.is_shared(scale))
        state = _move(snapshot.state, torch.device("cpu") if rung.on_host else run.features.device, copy=True)
        schedule, executed = (tuple(Scale(**scale) for scale in state[key]) for key in ("schedule", "executed"))
        work = ScaleWork(state["index"], state["start_seconds"], state["done"], state["before"])
        work.adopted, work.restored = state["adopted"], state["objective"] or None
        if state["optimizer"] is not None:
            work.optimizer = _OPTIMIZERS[schedule[work.index].optimizer](**state["optimizer"])
        run.schedule, run.executed, run.scale_seconds = schedule, [*executed], state["scale_seconds"]
        run.losses, run.best_losses, run.adopted_scales = (
            state[key] for key in ("losses", "best_losses", "adopted_scales")
        )
        run.clock.replan(schedule[work.index :], work.done)
        run.clock.restore(*state["clock"])
        if (budget := state["budget"]) is not None and run.budget:
            run.budget.restore(budget)
        run.notes = state["notes"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ResumeError("its state is damaged", BEGIN_AGAIN) from error
    return work


def refuse_late(*, copy: bool = True) -> Snapshot:  # noqa: ARG001 - what it takes the place of has it
    """Refuse to take a snapshot of a run that has gone on or has ended.

    Raises:
        UsageError: always.
    """
    raise UsageError("A snapshot can be taken until the next iteration begins, and none once a painting has ended.")


def _move(value: Any, device: torch.device, *, copy: bool = False) -> Any:
    """Return a tree with its tensors on a device; those that are copied there can be modified."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=copy)
    if isinstance(value, Mapping):
        return {key: _move(part, device, copy=copy) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_move(part, device, copy=copy) for part in value]
    return value
