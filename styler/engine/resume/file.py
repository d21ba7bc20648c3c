"""The file of a snapshot: a safetensors file whose metadata is JSON. Nothing is ever unpickled.

Knows trees of numbers, texts and tensors; does not know what they mean.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from styler.errors import ResumeError, quote_name

FORMAT = 1
"""Increases when files are laid out differently."""
KEY, CHECKSUM_KEY, TENSOR_KEY = "styler-state", "crc32", "$tensor"
"""Keys of the tree and of the checksum in the metadata, and of a tensor's name in the tree."""
BEGIN_AGAIN = "remove it, and begin again"
_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BEGINNING = 256
"""Bytes at the beginning of a file, among which the key of the tree is."""


def encode_tree(tree: Mapping[str, Any]) -> list[bytes | memoryview]:
    """Return the parts of a file that holds a tree of dicts, lists, numbers, texts and tensors on the CPU.

    The parts share the memory of the tensors, which can take most of what there is. `safetensors` would copy them, or
    write to a path of its own, without the care that `images.write_file` takes.

    Source: the format in the documentation of safetensors: the length of a header, the header in JSON, and the values.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"format": FORMAT, "tree": _take_tensors(tree, tensors)}, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {KEY: text, CHECKSUM_KEY: _compute_checksum(tensors, text)}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPE_NAMES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return [struct.pack("<Q", len(encoded)), encoded, *map(_view_bytes, tensors.values())]


def is_tree(path: Path) -> bool:
    """Return whether a file begins as those of `encode_tree` do, even if it is damaged further on.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return f'"{KEY}"'.encode() in stream.read(_BEGINNING)


def decode_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the tree in a file.

    Raises:
        FileNotFoundError: there is no file.
        ResumeError: it cannot be read, is damaged, or was written by another version.
    """
    name = quote_name(path)
    try:
        with safe_open(Path(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        text = metadata[KEY]
        is_whole, stored = _compute_checksum(tensors, text) == metadata[CHECKSUM_KEY], json.loads(text)
        version, tree = stored["format"], _put_tensors(stored["tree"], tensors)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResumeError(f"{name} cannot be read ({reason})", "make it readable, or remove it") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ResumeError(f"{name} is damaged", BEGIN_AGAIN) from error
    if not is_whole or not isinstance(tree, dict):
        raise ResumeError(f"{name} is damaged", BEGIN_AGAIN)
    if version != FORMAT:
        raise ResumeError(f"{name} was written by another version of styler", BEGIN_AGAIN)
    return tree


def _compute_checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the CRC-32 of a text and of the names, types, shapes and values of tensors on the CPU.

    It shows accidents, in half of the time of a cryptographic hash: a state can have gigabytes.
    """
    found = zlib.crc32(text.encode("utf-8", "backslashreplace"))
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(repr((name, tensor.dtype, tuple(tensor.shape))).encode(), found)
        found = zlib.crc32(_view_bytes(tensor), found)
    return f"{found:08x}"


def _view_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU."""
    values: memoryview = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
    return values


def _take_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a tree with the names of its tensors in their places, and add these to `tensors`."""
    if isinstance(value, Tensor):
        for name, stored in tensors.items():
            same = (stored.data_ptr(), stored.shape, stored.stride()) == (value.data_ptr(), value.shape, value.stride())
            if same and stored.dtype == value.dtype:  # files share no memory: what is known twice is written once
                return {TENSOR_KEY: name}
        name, is_part = f"{len(tensors):04}", value.untyped_storage().nbytes() != value.nbytes
        tensors[name] = value.clone() if is_part or not value.is_contiguous() else value
        return {TENSOR_KEY: name}
    if isinstance(value, Mapping):
        return {key: _take_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(part, tensors) for part in value]
    return value


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return a tree with its tensors in the places of their names."""
    if isinstance(value, dict):
        if value.keys() == {TENSOR_KEY}:
            return tensors[value[TENSOR_KEY]]
        return {key: _put_tensors(part, tensors) for key, part in value.items()}
    return [_put_tensors(part, tensors) for part in value] if isinstance(value, list) else value
