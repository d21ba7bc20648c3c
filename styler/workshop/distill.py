"""Distillation: a slim network learns from the full one, on intermediate states of small paintings.

A lesson is an image, the full network's features of it, the objective's gradient to these features, and the gradient
it gives the image. Paintings move along gradients, and two networks whose features are close can still disagree about
those, so the gradients are taught as well.

This module knows both networks, the objective and the file of a training state; it does not know how a slim network is
made.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from styler import images
from styler.errors import WeightsError
from styler.objective.terms import Objective
from styler.options import Options
from styler.vgg import arch
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.importers import BATCH_NORM_EPSILON, fold_batch_norm
from styler.vgg.model import run_layers
from styler.vgg.weights import Weights, read_metadata
from styler.workshop import crops
from styler.workshop.objectives import build_features, build_objective

LESSON_SIDE = 128
"""Side of a small painting, in pixels: about what one value of relu5_1 sees."""
LESSON_STEPS = 16
"""Steps of Adam in each painting."""
LESSON_AT = (0, 4, 9, 15)
"""Steps before which a lesson is recorded."""
LESSON_RATES = (0.06, 0.015)
"""Adam's first and last learning rate: low enough that the last state is nearly a painting."""
PAINTINGS_KEPT = 160
"""Paintings kept in memory, about 20 MB each."""

BATCH_SIZE = 4
LEARNING_RATE = 5e-4
WARM_UP = 20
"""Steps in which the learning rate rises."""
GRADIENT_SHARE, GRAM_SHARE = 2.0, 0.5
"""Weights of the gradient and of the Gram matrices, relative to the features."""
CLIP = 1.0
"""Norm at which the gradient to the network's parameters is clipped."""
NORM_MOMENTUM = 0.02
SAVE_EVERY = 50
FIRST_PAINTINGS, STEPS_PER_PAINTING = 6, 7
"""Paintings at the start, and steps after which one is added, since painting takes time."""


class Lesson(NamedTuple):
    """One state of a painting; all but the image in half precision, on the CPU."""

    image: Tensor
    """(1, 3, H, W)."""
    features: Mapping[str, Tensor]
    """By layer, each (1, C, H, W)."""
    feature_gradients: Mapping[str, Tensor]
    """The objective's gradient to the features, in units that give `gradient` a mean square of 1."""
    gradient: Tensor
    """The gradient that `feature_gradients` give the image, (1, 3, H, W)."""


class Lessons:
    """Numbered lessons, made on first use and the same for the same seed.

    Args:
        teacher: the full network.
        pictures: the pictures that contents and styles are cropped from, each (1, 3, H, W).
        layers: the layers to teach: those that are narrower in the slim network.
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
        self.features = build_features(teacher, self.options).to(device)
        self.layers = [layer for layer in self.features.layers if layer in layers]
        self.pictures, self.seed = pictures, seed
        self._get_painting = lru_cache(PAINTINGS_KEPT)(self._paint)

    def get_lesson(self, number: int) -> Lesson:
        """Return a lesson by its number, from 0; each small painting gives four."""
        painting, index = divmod(number, len(LESSON_AT))
        return self._get_painting(painting)[index]

    def _paint(self, number: int) -> list[Lesson]:
        """Paint for a few steps and record lessons."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        content, style = (crops.sample_crop(self.pictures, LESSON_SIDE, generator) for _ in range(2))
        objective = build_objective(self.features, self.options, content, style)
        image = content.clone().to(self.features.device)  # (1, 3, H, W)
        first, last = LESSON_RATES
        optimizer = torch.optim.Adam([image], lr=first, betas=(0.9, 0.99), eps=1e-12)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (last / first) ** (1 / (LESSON_STEPS - 1)))
        lessons = []
        for step in range(LESSON_STEPS):
            image.grad, lesson = self._evaluate(objective, image)
            if step in LESSON_AT:
                lessons.append(lesson)
            optimizer.step()
            schedule.step()
            image.clamp_(0, 1)
        return lessons

    def _evaluate(self, objective: Objective, image: Tensor) -> tuple[Tensor, Lesson]:
        """Return the objective's gradient at an image, and the corresponding lesson."""
        image = image.clone().requires_grad_()
        maps = self.features(image)
        total = torch.stack(list(objective.terms_from_features(maps, image).values())).sum()
        gradients = torch.autograd.grad(total, [maps[layer] for layer in self.features.layers], retain_graph=True)
        by_layer = dict(zip(self.features.layers, gradients, strict=True))
        outputs = [maps[layer] for layer in self.layers], [by_layer[layer] for layer in self.layers]
        (part,) = torch.autograd.grad(outputs[0], image, outputs[1], retain_graph=True)
        (whole,) = torch.autograd.grad(total, image)
        unit = 1 / part.square().mean().sqrt().clamp(min=1e-20)
        return whole, Lesson(
            image.detach().cpu(),
            {layer: maps[layer].detach().half().cpu() for layer in self.layers},
            {layer: (unit * by_layer[layer]).half().cpu() for layer in self.layers},
            (unit * part).half().cpu(),
        )


def make_key(original: Weights, teacher: Weights, pictures: Sequence[Tensor], settings: "DistillSettings") -> str:
    """Return what identifies a training: where it starts, what it learns from, and how.

    The kernels that it starts from are not part of it, since their last digits depend on the number of threads.
    """
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{tuple(picture.shape)}".encode())
        digest.update(picture.contiguous().numpy().data)
    return json.dumps([dict(original.info), teacher.sha256, digest.hexdigest(), asdict(settings)], sort_keys=True)


def dump_state(key: str, step: "DistillStep", student: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Return the state of a training after a step as a safetensors file; `key` identifies the training."""
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in values.items()}
    metadata = {"key": key, "done": str(step.number), "errors": json.dumps([step.gradient, step.features, step.gram])}
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def restore_state(path: Path, key: str, student: nn.Module, optimizer: torch.optim.Optimizer) -> "DistillStep":
    """Load a saved state and return its last step.

    Raises:
        WeightsError: the state belongs to another training, or cannot be read.
    """
    try:
        data = path.read_bytes()
        tensors, metadata = load(data), read_metadata(data)
        if metadata["key"] != key:
            raise WeightsError(
                f"The state in '{path}' belongs to another distillation; delete it to start again, or repeat its "
                "settings."
            )
        student.load_state_dict({name[8:]: tensor for name, tensor in tensors.items() if name.startswith("student.")})
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, part = name.split(".")
                state[int(index)][part] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(state)})
        return DistillStep(int(metadata["done"]), *map(float, json.loads(metadata["errors"])))
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise WeightsError(f"Cannot read the state in '{path}': {reason}; delete it to start again.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """Settings of a distillation."""

    steps: int
    seed: int = 0
    freeze: int = 0
    """Number of blocks, from the first, that are not trained."""
    batch_norm: bool = False
    """Normalize the outputs of each convolution over the batch in training; folded into the kernels at the end."""


@dataclass(frozen=True, slots=True)
class DistillStep:
    """Errors after a step, each relative to a slim network whose output is zero."""

    number: int
    gradient: float
    features: float
    gram: float

    def __str__(self) -> str:
        return f"error of gradient {self.gradient:.1%}, features {self.features:.1%}, Gram {self.gram:.1%}"


class Student(nn.Module):
    """A slim network that can be trained.

    Args:
        weights: the network to start from.
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
            is_trained = conv.block > settings.freeze and conv.layer in weights.readouts
            for parameter in self._get_kernel(conv):
                parameter.requires_grad_(is_trained)
            if settings.batch_norm and is_trained:
                self.norms[conv.name] = nn.BatchNorm2d(conv.outputs, BATCH_NORM_EPSILON, NORM_MOMENTUM)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the readouts of a batch (B, 3, H, W): each (B, C, H/stride, W/stride), C as in the full network."""
        image = image.contiguous(memory_format=torch.channels_last)
        return {
            conv.layer: F.conv2d(x, self.readouts[conv.layer][:, :, None, None])
            for conv, x in run_layers(image, self.convs, self._get_kernel, self.pooling, self._normalize)
            if conv.layer in layers
        }

    @torch.no_grad()
    def initialize_norms(self, image: Tensor) -> None:
        """Set gains and shifts so that the normalized network starts equal to the original, given a batch."""

        def measure(conv: arch.Conv, x: Tensor) -> Tensor:
            if (norm := self._get_norm(conv)) is not None:
                variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
                norm.weight.copy_((variance + BATCH_NORM_EPSILON).sqrt())
                norm.bias.copy_(mean)
                norm.running_mean, norm.running_var = mean, variance
            return x

        for _ in run_layers(image, self.convs, self._get_kernel, self.pooling, measure):
            pass

    def to_weights(self, original: Weights) -> Weights:
        """Return what was learned, normalization folded in."""
        kernels: dict[str, Tensor] = {}
        for conv in self.convs:
            kernel, bias = (tensor.detach().cpu().float() for tensor in self._get_kernel(conv))
            if (norm := self._get_norm(conv)) is not None:
                state = {f"norm.{name}": tensor.detach().cpu() for name, tensor in norm.state_dict().items()}
                kernel, bias = fold_batch_norm(kernel, bias, state, "norm")
            kernels |= {f"{conv.name}.weight": kernel, f"{conv.name}.bias": bias}
        readouts = {layer: tensor.detach().cpu().float() for layer, tensor in self.readouts.items()}
        info = {**original.info, "distilled": asdict(self.settings)}
        return replace(original, kernels=kernels, readouts=readouts, info=info)

    def _get_kernel(self, conv: arch.Conv) -> tuple[Tensor, Tensor]:
        return self.kernels[f"{conv.name}_weight"], self.kernels[f"{conv.name}_bias"]

    def _get_norm(self, conv: arch.Conv) -> nn.BatchNorm2d | None:
        norm = dict(self.norms).get(conv.name)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        return norm

    def _normalize(self, conv: arch.Conv, x: Tensor) -> Tensor:
        norm = self._get_norm(conv)
        return x if norm is None else norm(x)


def _copy_parameter(tensor: Tensor) -> Tensor:
    """Copy a tensor; a kernel in the memory format in which convolutions are fastest."""
    return tensor.clone(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def reinitialize(weights: Weights, seed: int) -> Weights:
    """Return the network with every layer but the first drawn at random (Kaiming), as if it had no teacher."""
    generator = torch.Generator().manual_seed(seed)
    kernels, readouts = dict(weights.kernels), dict(weights.readouts)
    for conv in weights.convs:
        if conv.layer in readouts:
            kernel, readout = torch.empty(conv.shape), torch.empty(readouts[conv.layer].shape)
            kernels[f"{conv.name}.weight"] = nn.init.kaiming_normal_(kernel, generator=generator)
            kernels[f"{conv.name}.bias"] = torch.zeros(conv.outputs)
            readouts[conv.layer] = nn.init.kaiming_normal_(readout, nonlinearity="linear", generator=generator)
    info = {**weights.info, "reinitialized": {"seed": seed}}
    return replace(weights, kernels=kernels, readouts=readouts, info=info)


def distill(
    original: Weights,
    teacher: Weights,
    pictures: Sequence[Tensor],
    settings: DistillSettings,
    *,
    device: torch.device | None = None,
    state: Path | None = None,
    stop: Event | None = None,
) -> Iterator[tuple[DistillStep, Callable[[], Weights]]]:
    """Train a slim network; every step is yielded with a function that returns the network at that point.

    Args:
        original: the slim network.
        teacher: the full network that it was made from.
        pictures: the pictures to learn from, each (1, 3, H, W).
        device: where to train; the CPU by default.
        state: a file to save the state in regularly, and to resume from if it exists.
        stop: once set, the next step is the last one.

    Raises:
        WeightsError: the state belongs to another training, or cannot be read.
    """
    device = device or torch.device("cpu")
    student = Student(original, settings).to(device)
    lessons = Lessons(teacher, pictures, student.pooling, list(original.readouts), settings.seed, device)
    if settings.batch_norm:
        student.initialize_norms(torch.cat([lessons.get_lesson(i).image for i in range(BATCH_SIZE)]).to(device))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=LEARNING_RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    key, done = make_key(original, teacher, pictures, settings), 0
    if state is not None and state.exists():
        step = restore_state(state, key, student, optimizer)
        if (done := step.number) == settings.steps:  # only the network was not written
            yield step, lambda: student.to_weights(original)
    for number in range(done, settings.steps):
        decay = (1 + math.cos(math.pi * number / settings.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (number + 1) / WARM_UP) * decay
        with torch.enable_grad():
            step = _train_step(student, optimizer, scaler, _make_batch(lessons, number, settings.seed), number + 1)
        is_last = number + 1 == settings.steps or (stop is not None and stop.is_set())
        if state is not None and (is_last or (number + 1) % SAVE_EVERY == 0):
            images.write_file(state, dump_state(key, step, student, optimizer), overwrite=True)
        yield step, lambda: student.to_weights(original)
        if is_last:
            return


def _make_batch(lessons: Lessons, number: int, seed: int) -> Lesson:
    """Return the lessons of a step as one batch, drawn from the latest paintings."""
    generator = torch.Generator().manual_seed(seed * 7_000_003 + number)
    painted = FIRST_PAINTINGS + number // STEPS_PER_PAINTING
    known = (max(0, painted - PAINTINGS_KEPT) * len(LESSON_AT), painted * len(LESSON_AT))
    chosen = [lessons.get_lesson(int(torch.randint(*known, (), generator=generator))) for _ in range(BATCH_SIZE)]
    return Lesson(
        torch.cat([lesson.image for lesson in chosen]),
        {layer: torch.cat([lesson.features[layer] for lesson in chosen]) for layer in lessons.layers},
        {layer: torch.cat([lesson.feature_gradients[layer] for lesson in chosen]) for layer in lessons.layers},
        torch.cat([lesson.gradient for lesson in chosen]),
    )


def _train_step(
    student: Student, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, batch: Lesson, number: int
) -> DistillStep:
    device = next(student.parameters()).device
    image = batch.image.to(device).requires_grad_()
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        maps = student(image, list(batch.features))
    gradient, features, gram = measure_errors(maps, batch, image)
    loss = GRADIENT_SHARE * gradient + features + GRAM_SHARE * gram
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p for p in student.parameters() if p.requires_grad], CLIP)
    scaler.step(optimizer)
    scaler.update()
    return DistillStep(number, *(float(error.detach()) for error in (gradient, features, gram)))


def measure_errors(maps: Mapping[str, Tensor], batch: Lesson, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the relative errors of the gradient, the features and the Gram matrices, each ()."""
    features, gram, total = [], [], torch.zeros((), device=image.device)
    for layer, output in maps.items():
        targets = batch.features[layer], batch.feature_gradients[layer]
        theirs, gradients = (target.to(image.device).float() for target in targets)
        ours = output.float()
        features.append(_measure_relative_error(ours, theirs))
        gram.append(_measure_relative_error(_compute_gram(ours), _compute_gram(theirs)))
        total = total + (ours * gradients).sum()
    (gradient,) = torch.autograd.grad(total, image, create_graph=True)
    return (
        _measure_relative_error(gradient, batch.gradient.to(image.device).float()),
        torch.stack(features).mean(),
        torch.stack(gram).mean(),
    )


def _measure_relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return ‖a − b‖² / ‖b‖², averaged over the batch."""
    error, energy = (ours - theirs).flatten(1).square().sum(dim=1), theirs.flatten(1).square().sum(dim=1)
    return (error / energy.clamp(min=1e-12)).mean()


def _compute_gram(maps: Tensor) -> Tensor:
    rows = maps.flatten(2)  # (B, C, N)
    return rows @ rows.transpose(1, 2) / rows.shape[2]  # (B, C, C)
