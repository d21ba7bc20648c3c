"""Networks to be compared, each as what gives features and, where it can, gradients and pictures.

A name or file of weights gives all of them; an ONNX model that `vgg export` wrote gives features alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styler.errors import WeightsError
from styler.vgg import backbones, export, weights
from styler.vgg.features import Features
from styler.vgg.weights import Weights

FeaturesOf = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network by the name it was given."""

    name: str
    parameters: int
    """Numbers in its convolutions, and in its readouts if it is slim."""
    bytes: int
    """Of its file."""
    weights: Weights | None
    """None of an ONNX model."""
    model: Any = None
    """The session of an ONNX model."""

    def features(self, layers: list[str], pooling: str) -> FeaturesOf:
        """A function from a picture (1, 3, H, W) to features with as many channels as the full network's."""
        if self.weights is None:
            return lambda image: _run(self.model, layers, image)
        network, read = Features(self.weights, layers, pooling), self.weights

        def found(image: Tensor) -> dict[str, Tensor]:
            with torch.no_grad():
                maps = network(image)
                return {layer: _expanded(read, layer, maps[layer]) for layer in layers}

        return found


def candidate(name: str) -> Candidate:
    """Load what a name or file stands for.

    Raises:
        OptionError: there is no such backbone.
        WeightsError: the file is missing, damaged, or no network.
    """
    if name.endswith(".onnx"):
        return _onnx(Path(name))
    found = backbones.load(name)
    tensors = [*found.kernels.values(), *found.readouts.values()]
    path = Path(name)
    if name in weights.SHA256:
        path = backbones.embedded(name)
    elif backbones.is_name(name) and backbones.is_kept(name):
        path = backbones.files(name)[0]
    return Candidate(name, sum(t.numel() for t in tensors), path.stat().st_size, found)


def _onnx(path: Path) -> Candidate:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The model '{path}' cannot be read ({error.strerror}); check its name.") from error
    onnx, runtime = export.require()
    try:
        model = onnx.load_model_from_string(data)
        session = export.opened(data)
    except export.refusals(runtime) as error:
        raise WeightsError(f"The model '{path}' is no ONNX that can be run; export it again.") from error
    numbers = sum(_count(item.dims) for item in model.graph.initializer if len(item.dims) > 0)
    return Candidate(str(path), numbers, len(data), None, session)


def _count(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _run(session: Any, layers: list[str], image: Tensor) -> dict[str, Tensor]:
    outputs = [output.name for output in session.get_outputs()]
    missing = [layer for layer in layers if layer not in outputs]
    if missing:
        raise WeightsError(f"The model has no output {missing[0]}; export it again with --layers {','.join(layers)}.")
    found = session.run(layers, {export.INPUT: image.contiguous().numpy()})
    return {layer: torch.from_numpy(maps) for layer, maps in zip(layers, found, strict=True)}


def _expanded(read: Weights, layer: str, maps: Tensor) -> Tensor:
    expansion = read.expansion(layer)
    return maps if expansion is None else torch.nn.functional.conv2d(maps, expansion[:, :, None, None])


def relative(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """By layer: cosine of the features, and relative error of the Gram matrices; NaN where channels differ."""
    found = {}
    for layer, b in theirs.items():
        a = ours[layer]
        if a.shape != b.shape:
            found[layer] = (float("nan"), float("nan"))
            continue
        cosine = float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        x, y = a[0].flatten(1), b[0].flatten(1)
        gram, wanted = x @ x.T, y @ y.T
        found[layer] = (cosine, float((gram - wanted).norm() / wanted.norm().clamp(min=1e-12)))
    return found
