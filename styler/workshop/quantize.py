"""`vgg quantize`: the same network in a smaller file, rounded; it is expanded to float32 when loaded.

`float16` and `bfloat16` round every tensor but the first convolution's, whose bias absorbs the mean color; `int8`
stores each kernel as integers from −127 to 127 with one scale per output channel (its largest magnitude over 127),
biases and constants in float32. The computation is the same: this saves disk space and download time, not painting
time.
"""

from pathlib import Path

import torch
from torch import Tensor

from styler.errors import OptionError
from styler.vgg import weights
from styler.vgg.weights import Weights

STORAGE_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
LEVELS = 127


def quantize_network(network: Weights, form: str = "int8") -> bytes:
    """Return a network as the bytes of a weights file in another storage format.

    Args:
        form: `float16`, `bfloat16`, `int8`, or `float32`, which rounds nothing.

    Raises:
        OptionError: there is no such format.
        WeightsError: a value is out of the range of the format.
    """
    if form not in STORAGE_FORMATS:
        raise OptionError(f"There is no format '{form}'; it can be {', '.join(STORAGE_FORMATS)}.")
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.tensors.items():
        if form == "int8" and tensor.dim() > 1:
            tensors[name], tensors[f"{name}.scale"] = round_kernel(tensor)
        elif form == "int8" or name.startswith("conv1_1"):  # the first bias absorbs the mean color, and is large
            tensors[name] = tensor.float()
        else:
            tensors[name] = tensor.to(STORAGE_FORMATS[form])
    for pooling, means in network.mean_activation.items():
        tensors |= {f"mean_activation.{pooling}.{conv}": mean.float() for conv, mean in means.items()}
    info = {**network.info, "convention": "rgb", "stored": form, "of": network.sha256}
    data = weights.serialize_weights(tensors, info)
    weights.parse_weights(data, Path(f"{network.network}.{form}.safetensors"))  # float16 may have overflowed
    return data


def round_kernel(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 values from −127 to 127, of the kernel's shape, and the scale (O,) that restores the kernel."""
    scale = kernel.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / LEVELS  # (O,)
    shape = (-1,) + (1,) * (kernel.dim() - 1)
    return (kernel / scale.reshape(shape)).round().to(torch.int8), scale.float()
