"""`vgg quantize`: the same network in a smaller file, its numbers rounded; expanded to float32 when loaded.

`float16` and `bfloat16` round every number but the first convolution's, whose bias has the mean colour in it; `int8`
keeps each kernel as whole numbers from −127 to 127 with one scale for each output channel (its largest number over
127), biases and constants in float32. What is computed afterwards is the same: this saves the disk and the download,
not the time. Dynamic quantisation, which others advise, is left out: it covers linear layers and recurrent ones, and
what painting uses of a VGG is convolutions alone.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from styler.errors import OptionError
from styler.vgg import weights
from styler.vgg.weights import Weights

STORAGE_FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8}
LEVELS = 127


def quantize_network(network: Weights, form: str = "int8") -> bytes:
    """A network as the bytes of a weights file of ours in another form.

    Args:
        network: as loaded.
        form: `float16`, `bfloat16`, `int8`, or `float32`, which rounds nothing.

    Raises:
        OptionError: there is no such form.
    """
    if form not in STORAGE_FORMATS:
        raise OptionError(f"There is no form '{form}'; it can be {', '.join(STORAGE_FORMATS)}.")
    tensors: dict[str, Tensor] = {}
    named = {**network.kernels, **{f"readout.{layer}": readout for layer, readout in network.readouts.items()}}
    for name, tensor in named.items():
        if form == "int8" and tensor.dim() > 1:
            whole, scale = round_kernel(tensor)
            tensors |= {name: whole, f"{name}.scale": scale}
        elif form == "int8" or (name.startswith("conv1_1") and form != "float32"):
            # the bias of the first convolution takes the mean colour in, and is large
            tensors[name] = tensor.float()
        else:
            tensors[name] = tensor.to(STORAGE_FORMATS[form])
    for pooling, means in network.mean_activation.items():
        tensors |= {f"mean_activation.{pooling}.{conv}": mean.float() for conv, mean in means.items()}
    info = {**network.info, "convention": "rgb", "stored": form, "of": network.sha256}
    made = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"styler": json.dumps(info)})
    weights.parse_weights(made, Path(f"{network.network}.{form}.safetensors"))  # float16 may have overflowed
    return made


def round_kernel(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from −127 to 127, int8 of the kernel's shape, and the scale (O,) that gives the kernel back."""
    scale = kernel.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / LEVELS  # (O,)
    shape = (-1,) + (1,) * (kernel.dim() - 1)
    return (kernel / scale.reshape(shape)).round().to(torch.int8), scale.float()
