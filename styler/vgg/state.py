"""The state of a distillation in a file: tensors alone, in safetensors, so that a run that was cut off goes on.

Does not know what is learnt, nor from what.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from styler.errors import WeightsError


def saved(key: str, done: int, student: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """The student's and Adam's numbers after so many steps, as the bytes of a file; `key` says of which learning."""
    tensors = {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
    for index, found in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": tensor for name, tensor in found.items()}
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {"key": key, "done": str(done)})


def resumed(path: Path, key: str, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
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
