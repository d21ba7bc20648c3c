"""Distillation: a slim network learns from the full one, without labels.

It learns to give the full network's features and Gram matrices through its readouts, and the gradient that the
objective's pull at those features gives the picture. Adam with a cosine to 0, gradients clipped; on CUDA under autocast
with a gradient scaler. The state is saved as it goes, as tensors alone, and a run that was cut off goes on from there.

Source of the idea: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015; matching gradients
after Czarnecki et al., "Sobolev Training for Neural Networks", 2017. Kaiming initialisation after He et al., "Delving
Deep into Rectifiers", 2015.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styler import images
from styler.vgg import family
from styler.vgg import state as state_file
from styler.vgg.lessons import KEPT, TAKEN, Lesson, Lessons
from styler.vgg.pooling import DEFAULT, pooled
from styler.vgg.weights import Weights

BATCH = 4
RATE = 5e-4
GRADIENT_SHARE, GRAM_SHARE = 2.0, 0.5
"""What the gradient and the Gram matrices count, beside the features' 1."""
CLIP = 1.0
"""Norm of the gradient to the network's numbers beyond which it is shortened."""
NORM_EPSILON = 1e-5
NORM_MOMENTUM = 0.02
SAVE_EVERY = 50
FIRST_PAINTINGS, STEPS_A_PAINTING = 6, 7
"""Lessons of so many small paintings to begin with, and those of one more every so many steps: painting takes time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of a distillation."""

    steps: int
    seed: int = 0
    freeze: int = 0
    """Blocks, from the first, that stay as they are."""
    batch_norm: bool = False
    """Normalise each convolution's outputs over the batch while learning; folded in at the end."""


@dataclass(frozen=True, slots=True)
class Step:
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

    def __init__(self, weights: Weights, settings: Settings) -> None:
        super().__init__()
        self.convs, self.pooling, self.settings = weights.convs, weights.pooling or DEFAULT, settings
        self.kernels = nn.ParameterDict({name.replace(".", "_"): _own(t) for name, t in weights.kernels.items()})
        self.readouts = nn.ParameterDict({layer: _own(t) for layer, t in weights.readouts.items()})
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
                x = pooled(x, conv.block - 1, self.pooling)
            kernel, bias = self.kernels[f"{conv.name}_weight"], self.kernels[f"{conv.name}_bias"]
            x = F.conv2d(x, kernel, bias, padding=0 if conv.name == "conv1_1" else conv.kernel // 2)
            if (norm := self._norm(conv)) is not None:
                x = norm(x)
            x = F.relu(x)
            if conv.layer in layers:
                found[conv.layer] = F.conv2d(x, self.readouts[conv.layer][:, :, None, None])
        return found

    def _norm(self, conv: family.Conv) -> nn.BatchNorm2d | None:
        norm = dict(self.norms).get(conv.name)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        return norm

    @torch.no_grad()
    def start_norms(self, image: Tensor) -> None:
        """Set gains and shifts so that the normalised network begins as the one it was made from."""
        x = F.pad(image, (1, 1, 1, 1), mode="replicate")
        for conv in self.convs:
            if conv.opens_block:
                x = pooled(x, conv.block - 1, self.pooling)
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


def _own(tensor: Tensor) -> Tensor:
    """A copy, a kernel in the order of memory that convolutions are fast in."""
    return tensor.clone(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def kaiming(weights: Weights, seed: int) -> Weights:
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


def distil(
    beginning: Weights,
    teacher: Weights,
    pictures: Sequence[Tensor],
    settings: Settings,
    *,
    device: torch.device | None = None,
    state: Path | None = None,
) -> Iterator[tuple[Step, Callable[[], Weights]]]:
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
        student.start_norms(torch.cat([lessons.lesson(i).image for i in range(BATCH)]).to(device))
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=RATE)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    key = json.dumps([beginning.info.get("slim"), list(beginning.widths), vars_of(settings)])
    done = state_file.resumed(state, key, student, optimizer) if state is not None and state.exists() else 0
    for number in range(done, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (number + 1) / 20) * (1 + math.cos(math.pi * number / settings.steps)) / 2
        with torch.enable_grad():
            step = _learn(student, optimizer, scaler, _batch(lessons, number, settings.seed), number + 1)
        if state is not None and ((number + 1) % SAVE_EVERY == 0 or number + 1 == settings.steps):
            images.write_file(state, state_file.saved(key, number + 1, student, optimizer), overwrite=True)
        yield step, lambda: student.weights(beginning)


def vars_of(settings: Settings) -> list[object]:
    """Everything that two learnings must have in common, in order."""
    return [settings.steps, settings.seed, settings.freeze, settings.batch_norm]


def _batch(lessons: Lessons, number: int, seed: int) -> Lesson:
    """The lessons of a step, as one batch: among those of the last paintings, and now and then a new one."""
    generator = torch.Generator().manual_seed(seed * 7_000_003 + number)
    painted = FIRST_PAINTINGS + number // STEPS_A_PAINTING
    known = (max(0, painted - KEPT) * len(TAKEN), painted * len(TAKEN))
    chosen = [lessons.lesson(int(torch.randint(*known, (), generator=generator))) for _ in range(BATCH)]

    def together(name: str) -> dict[str, Tensor]:
        return {layer: torch.cat([getattr(lesson, name)[layer] for lesson in chosen]) for layer in lessons.layers}

    return Lesson(
        torch.cat([lesson.image for lesson in chosen]),
        together("features"),
        together("pull"),
        torch.cat([lesson.gradient for lesson in chosen]),
    )


def _learn(
    student: Student, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, batch: Lesson, number: int
) -> Step:
    """One step of Adam."""
    device = next(student.parameters()).device
    image = batch.image.to(device).requires_grad_()
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        found = student(image, list(batch.features))
    gradient, features, gram = misses(found, batch, image)
    loss = GRADIENT_SHARE * gradient + features + GRAM_SHARE * gram
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p for p in student.parameters() if p.requires_grad], CLIP)
    scaler.step(optimizer)
    scaler.update()
    return Step(number, *(float(missed.detach()) for missed in (gradient, features, gram)))


def misses(found: Mapping[str, Tensor], batch: Lesson, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is missed of the gradient, the features and the Gram matrices: shares of their energy, each ()."""
    features, gram, pulled = [], [], torch.zeros((), device=image.device)
    for layer, maps in found.items():
        theirs, pull = batch.features[layer].to(image.device).float(), batch.pull[layer].to(image.device).float()
        ours = maps.float()
        features.append(_missed(ours, theirs))
        gram.append(_missed(_gram(ours), _gram(theirs)))
        pulled = pulled + (ours * pull).sum()
    (gradient,) = torch.autograd.grad(pulled, image, create_graph=True)
    return (
        _missed(gradient, batch.gradient.to(image.device).float()),
        torch.stack(features).mean(),
        torch.stack(gram).mean(),
    )


def _missed(ours: Tensor, theirs: Tensor) -> Tensor:
    """‖a − b‖² / ‖b‖² of each in the batch, and the mean of them."""
    error, energy = (ours - theirs).flatten(1).square().sum(dim=1), theirs.flatten(1).square().sum(dim=1)
    return (error / energy.clamp(min=1e-12)).mean()


def _gram(maps: Tensor) -> Tensor:
    rows = maps.flatten(2)  # (B, C, N)
    return rows @ rows.transpose(1, 2) / rows.shape[2]  # (B, C, C)
