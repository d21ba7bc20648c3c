"""PyTorch checkpoints, read without unpickling anything but tensors.

Knows state dicts; does not know networks.
"""

import io
import pickle
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from styler.errors import WeightsError

BATCH_NORM_EPSILON = 1e-5


def read(data: bytes, name: str) -> dict[str, Tensor]:
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
