"""What a slim network learns from: states of small paintings in the making, and what the full network makes of them.

A lesson is a picture, the full network's features of it, and how the objective pulls at them: the pull at the features
and the gradient it gives the picture. Paintings move along gradients, and two networks whose features are close can
still disagree about those: hence the pull is taught, not the features alone.

Knows the full network and the objective; does not know the slim network.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from styler import images
from styler.engine.objective import Objective
from styler.engine.targets import (
    SourceImage,
    StyleCache,
    compute_targets,
    compute_term_weights,
    resolve_content_layers,
    resolve_style_layers,
)
from styler.errors import WeightsError
from styler.options import Options
from styler.vgg import arch
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import Features, apply_pooling
from styler.vgg.weights import Weights
from styler.workshop import crops

LESSON_SIDE = 128
"""Of a small painting, in pixels: what one value of relu5_1 sees."""
LESSON_STEPS = 16
"""Of Adam, in each painting."""
LESSON_AT = (0, 4, 9, 15)
"""The steps before which a lesson is taken."""
LESSON_RATES = (0.06, 0.015)
"""Adam's first and last: so far down after these steps that it is nearly a painting."""
PAINTINGS_KEPT = 160
"""Paintings kept in memory, about 20 MB each."""


class Lesson(NamedTuple):
    """One state; everything but the picture is of half precision, on the CPU."""

    image: Tensor
    """(1, 3, H, W)."""
    features: Mapping[str, Tensor]
    """By layer, (1, C, H, W)."""
    pull: Mapping[str, Tensor]
    """The objective's gradient to the features, in units that give `gradient` a mean square of 1."""
    gradient: Tensor
    """What the pull at these layers gives the picture, (1, 3, H, W)."""


class Lessons:
    """Lessons by number, made when first asked for; the same ones for the same seed.

    Args:
        teacher: the full network.
        pictures: to crop contents and styles from, each (1, 3, H, W).
        pooling: of the network.
        layers: those to teach: the ones that the slim network does not have whole.
        seed: of the crops.
        device: where the teacher runs.
    """

    def __init__(
        self,
        teacher: Weights,
        pictures: Sequence[Tensor],
        pooling: str,
        layers: Sequence[str],
        seed: int,
        device: torch.device,
    ) -> None:
        self.options = Options(pooling=pooling)
        wanted = (
            *resolve_content_layers(self.options, teacher.network),
            *resolve_style_layers(self.options, teacher.network),
        )
        self.features = Features(teacher, wanted, pooling).to(device)
        self.layers = [layer for layer in self.features.layers if layer in layers]
        self.pictures, self.seed = pictures, seed
        self._kept: OrderedDict[int, list[Lesson]] = OrderedDict()

    def lesson(self, number: int) -> Lesson:
        """The lesson of that number, from 0; four come from each small painting."""
        painting, taken = divmod(number, len(LESSON_AT))
        if painting not in self._kept:
            self._kept[painting] = self._paint(painting)
            if len(self._kept) > PAINTINGS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[painting][taken]

    def _paint(self, number: int) -> list[Lesson]:
        """Paint for a few steps and take notes."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        content, style = (SourceImage.of(crops.sample_crop(self.pictures, LESSON_SIDE, generator)) for _ in range(2))
        targets = compute_targets(
            self.features, content, [style], (LESSON_SIDE, LESSON_SIDE), self.options, StyleCache()
        )
        objective = Objective(self.features, targets, compute_term_weights(self.options, self.features.network))
        image = content.image.to(self.features.device)
        first, second = torch.zeros_like(image), torch.zeros_like(image)
        found = []
        for step in range(LESSON_STEPS):
            gradient, lesson = self._look(objective, image)
            if step in LESSON_AT:
                found.append(lesson)
            first, second = first.lerp(gradient, 0.1), second.lerp(gradient.square(), 0.01)
            adam = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12)
            rate = LESSON_RATES[0] * (LESSON_RATES[1] / LESSON_RATES[0]) ** (step / (LESSON_STEPS - 1))
            image = (image - rate * adam).clamp(0, 1)
        return found

    def _look(self, objective: Objective, image: Tensor) -> tuple[Tensor, Lesson]:
        """The objective's gradient at a picture, and the lesson in it."""
        image = image.detach().requires_grad_()
        maps = self.features(image)
        total = torch.stack(list(objective.terms_of(maps, image).values())).sum()
        inner = torch.autograd.grad(total, [maps[layer] for layer in self.features.layers], retain_graph=True)
        pull = dict(zip(self.features.layers, inner, strict=True))
        pulls = [pull[layer] for layer in self.layers]
        (taught,) = torch.autograd.grad([maps[layer] for layer in self.layers], image, pulls, retain_graph=True)
        (whole,) = torch.autograd.grad(total, image)
        unit = 1 / taught.square().mean().sqrt().clamp(min=1e-20)
        return whole, Lesson(
            image.detach().cpu(),
            {layer: maps[layer].detach().half().cpu() for layer in self.layers},
            {layer: (unit * pull[layer]).half().cpu() for layer in self.layers},
            (unit * taught).half().cpu(),
        )


def dump_state(key: str, done: int, student: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """The student's and Adam's numbers after so many steps, as the bytes of a file; `key` says of which learning."""
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    for index, found in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in found.items()}
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"key": key, "done": str(done)})


def restore_state(path: Path, key: str, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a saved state back and return how many steps it had."""
    try:
        data = path.read_bytes()
        tensors = load(data)
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if about["key"] != key:
            raise WeightsError(
                f"The state in '{path}' is of another distillation; delete it to begin anew, or repeat its settings."
            )
        student.load_state_dict(
            {name.removeprefix("student."): t for name, t in tensors.items() if name.startswith("student.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, part = name.split(".")
                state.setdefault(int(index), {})[part] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(about["done"])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"The state in '{path}' cannot be read ({error}); delete it to begin anew.") from error


BATCH_SIZE = 4
LEARNING_RATE = 5e-4
GRADIENT_SHARE, GRAM_SHARE = 2.0, 0.5
"""What the gradient and the Gram matrices count, beside the features' 1."""
CLIP = 1.0
"""Norm of the gradient to the network's numbers beyond which it is shortened."""
NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.02
SAVE_EVERY = 50
FIRST_PAINTINGS, STEPS_PER_PAINTING = 6, 7
"""Lessons of so many small paintings to begin with, and those of one more every so many steps: painting takes time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """Of a distillation."""

    steps: int
    seed: int = 0
    freeze: int = 0
    """Blocks, from the first, that stay as they are."""
    batch_norm: bool = False
    """Normalise each convolution's outputs over the batch while learning; folded in at the end."""


@dataclass(frozen=True, slots=True)
class DistillStep:
    """Where the learning stands; each is a share of what it would be if the slim network gave nothing."""

    number: int
    gradient: float
    features: float
    gram: float


class Student(nn.Module):
    """A slim network that can learn.

    Args:
        weights: what to begin with.
        settings: what may change.
    """

    def __init__(self, weights: Weights, settings: DistillSettings) -> None:
        super().__init__()
        self.convs, self.pooling, self.settings = weights.convs, weights.pooling or DEFAULT_POOLING, settings
        self.kernels = nn.ParameterDict(
            {name.replace(".", "_"): _copy_parameter(t) for name, t in weights.kernels.items()}
        )
        self.readouts = nn.ParameterDict({layer: _copy_parameter(t) for layer, t in weights.readouts.items()})
        self.norms = nn.ModuleDict()
        for conv in self.convs:
            stays = conv.block <= settings.freeze or conv.layer not in weights.readouts
            for part in ("weight", "bias"):
                self.kernels[f"{conv.name}_{part}"].requires_grad_(not stays)
            if settings.batch_norm and not stays:
                self.norms[conv.name] = nn.BatchNorm2d(conv.outputs, NORM_EPSILON, NORM_MOMENTUM)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Readouts of a batch (B, 3, H, W): each (B, C, H/stride, W/stride), C as in the full network."""
        found = {}
        x = F.pad(image.contiguous(memory_format=torch.channels_last), (1, 1, 1, 1), mode="replicate")
        for conv in self.convs:
            if conv.opens_block:
                x = apply_pooling(x, conv.block - 1, self.pooling)
            kernel, bias = self.kernels[f"{conv.name}_weight"], self.kernels[f"{conv.name}_bias"]
            x = F.conv2d(x, kernel, bias, padding=0 if conv.name == "conv1_1" else conv.kernel // 2)
            if (norm := self._norm(conv)) is not None:
                x = norm(x)
            x = F.relu(x)
            if conv.layer in layers:
                found[conv.layer] = F.conv2d(x, self.readouts[conv.layer][:, :, None, None])
        return found

    def _norm(self, conv: arch.Conv) -> nn.BatchNorm2d | None:
        norm = dict(self.norms).get(conv.name)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        return norm

    @torch.no_grad()
    def start_norms(self, image: Tensor) -> None:
        """Set gains and shifts so that the normalised network begins as the one it was made from."""
        x = F.pad(image, (1, 1, 1, 1), mode="replicate")
        for conv in self.convs:
            if conv.opens_block:
                x = apply_pooling(x, conv.block - 1, self.pooling)
            kernel, bias = self.kernels[f"{conv.name}_weight"], self.kernels[f"{conv.name}_bias"]
            x = F.conv2d(x, kernel, bias, padding=0 if conv.name == "conv1_1" else conv.kernel // 2)
            norm = self._norm(conv)
            if norm is not None:
                spread, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
                norm.weight.copy_((spread + NORM_EPSILON).sqrt())
                norm.bias.copy_(mean)
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(spread)
            x = F.relu(x)

    def weights(self, beginning: Weights) -> Weights:
        """What was learnt, normalisation folded in."""
        kernels: dict[str, Tensor] = {}
        for conv in self.convs:
            kernel, bias = (self.kernels[f"{conv.name}_{part}"].detach().cpu().float() for part in ("weight", "bias"))
            norm = self._norm(conv)
            if norm is not None:
                assert norm.running_mean is not None
                assert norm.running_var is not None
                gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().cpu()
                kernel = kernel * gain[:, None, None, None]
                bias = (bias - norm.running_mean.cpu()) * gain + norm.bias.detach().cpu()
            kernels |= {f"{conv.name}.weight": kernel, f"{conv.name}.bias": bias}
        readouts = {layer: tensor.detach().cpu().float() for layer, tensor in self.readouts.items()}
        info = {**beginning.info, "distilled": asdict(self.settings)}
        return replace(beginning, kernels=kernels, readouts=readouts, info=info)


def _copy_parameter(tensor: Tensor) -> Tensor:
    """A copy, a kernel in the order of memory that convolutions are fast in."""
    return tensor.clone(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def reinitialize(weights: Weights, seed: int) -> Weights:
    """The same network with every layer but the first begun anew, as layers are that have no parent."""
    generator = torch.Generator().manual_seed(seed)
    kernels, readouts = dict(weights.kernels), dict(weights.readouts)
    for conv in weights.convs:
        if conv.layer in readouts:
            kernels[f"{conv.name}.weight"] = nn.init.kaiming_normal_(torch.empty(conv.shape), generator=generator)
            kernels[f"{conv.name}.bias"] = torch.zeros(conv.outputs)
            shape = readouts[conv.layer].shape
            readouts[conv.layer] = nn.init.kaiming_normal_(
                torch.empty(shape), nonlinearity="linear", generator=generator
            )
    return replace(weights, kernels=kernels, readouts=readouts)


def distill(
    beginning: Weights,
    teacher: Weights,
    pictures: Sequence[Tensor],
    settings: DistillSettings,
    *,
    device: torch.device | None = None,
    state: Path | None = None,
) -> Iterator[tuple[DistillStep, Callable[[], Weights]]]:
    """Learn, reporting after every step; each report comes with a function that gives the network as it is then.

    Args:
        beginning: a slim network.
        teacher: the full one it came from.
        pictures: to learn from, each (1, 3, H, W).
        settings: of the learning.
        device: where to learn.
        state: a file to save the state in now and then, and to go on from if it is there.

    Raises:
        WeightsError: the state is of another learning, or cannot be read.
    """
    device = device or torch.device("cpu")
    student = Student(beginning, settings).to(device)
    lessons = Lessons(teacher, pictures, student.pooling, list(beginning.readouts), settings.seed, device)
    if settings.batch_norm:
        student.start_norms(torch.cat([lessons.lesson(i).image for i in range(BATCH_SIZE)]).to(device))
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    key = json.dumps([beginning.info.get("slim"), list(beginning.widths), identify_settings(settings)])
    done = restore_state(state, key, student, optimizer) if state is not None and state.exists() else 0
    for number in range(done, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                LEARNING_RATE * min(1, (number + 1) / 20) * (1 + math.cos(math.pi * number / settings.steps)) / 2
            )
        with torch.enable_grad():
            step = _train_step(student, optimizer, scaler, _make_batch(lessons, number, settings.seed), number + 1)
        if state is not None and ((number + 1) % SAVE_EVERY == 0 or number + 1 == settings.steps):
            images.write_file(state, dump_state(key, number + 1, student, optimizer), overwrite=True)
        yield step, lambda: student.weights(beginning)


def identify_settings(settings: DistillSettings) -> list[object]:
    """Everything that two learnings must have in common, in order."""
    return [settings.steps, settings.seed, settings.freeze, settings.batch_norm]


def _make_batch(lessons: Lessons, number: int, seed: int) -> Lesson:
    """The lessons of a step, as one batch: among those of the last paintings, and now and then a new one."""
    generator = torch.Generator().manual_seed(seed * 7_000_003 + number)
    painted = FIRST_PAINTINGS + number // STEPS_PER_PAINTING
    known = (max(0, painted - PAINTINGS_KEPT) * len(LESSON_AT), painted * len(LESSON_AT))
    chosen = [lessons.lesson(int(torch.randint(*known, (), generator=generator))) for _ in range(BATCH_SIZE)]

    def together(name: str) -> dict[str, Tensor]:
        return {layer: torch.cat([getattr(lesson, name)[layer] for lesson in chosen]) for layer in lessons.layers}

    return Lesson(
        torch.cat([lesson.image for lesson in chosen]),
        together("features"),
        together("pull"),
        torch.cat([lesson.gradient for lesson in chosen]),
    )


def _train_step(
    student: Student, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, batch: Lesson, number: int
) -> DistillStep:
    """One step of Adam."""
    device = next(student.parameters()).device
    image = batch.image.to(device).requires_grad_()
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        found = student(image, list(batch.features))
    gradient, features, gram = measure_errors(found, batch, image)
    loss = GRADIENT_SHARE * gradient + features + GRAM_SHARE * gram
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p for p in student.parameters() if p.requires_grad], CLIP)
    scaler.step(optimizer)
    scaler.update()
    return DistillStep(number, *(float(missed.detach()) for missed in (gradient, features, gram)))


def measure_errors(found: Mapping[str, Tensor], batch: Lesson, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is missed of the gradient, the features and the Gram matrices: shares of their energy, each ()."""
    features, gram, pulled = [], [], torch.zeros((), device=image.device)
    for layer, maps in found.items():
        theirs, pull = batch.features[layer].to(image.device).float(), batch.pull[layer].to(image.device).float()
        ours = maps.float()
        features.append(_relative_error(ours, theirs))
        gram.append(_relative_error(_gram(ours), _gram(theirs)))
        pulled = pulled + (ours * pull).sum()
    (gradient,) = torch.autograd.grad(pulled, image, create_graph=True)
    return (
        _relative_error(gradient, batch.gradient.to(image.device).float()),
        torch.stack(features).mean(),
        torch.stack(gram).mean(),
    )


def _relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """‖a − b‖² / ‖b‖² of each in the batch, and the mean of them."""
    error, energy = (ours - theirs).flatten(1).square().sum(dim=1), theirs.flatten(1).square().sum(dim=1)
    return (error / energy.clamp(min=1e-12)).mean()


def _gram(maps: Tensor) -> Tensor:
    rows = maps.flatten(2)  # (B, C, N)
    return rows @ rows.transpose(1, 2) / rows.shape[2]  # (B, C, C)
