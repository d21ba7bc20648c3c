"""`styler doctor`: is everything there that painting needs, and does it work?

Every check gives facts or raises; what is raised becomes a sentence of what is broken, and the next check goes on.
"""

import importlib
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from styler import config
from styler.cli import output
from styler.cli.flags import Json
from styler.errors import StylerError
from styler.options import Options, resolve_options

EXTRA_MODULES = {"heif": "pillow_heif", "jxl": "pillow_jxl"}
"""Modules of the optional extras that `run` can use."""
BROKEN_EXIT = 1

Facts = Mapping[str, Any]


def doctor(*, json: Json = False) -> int:
    """Check the installation; the exit code is 1 if anything is broken."""
    facts: dict[str, Facts] = {}
    broken: list[str] = []
    for name, check in CHECKS.items():
        try:
            facts[name] = check()
        except StylerError as error:
            broken.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, finding it is what this verb is for
            broken.append(f"{name}: {type(error).__name__}: {error}")
    if json:
        output.print_document({"ok": not broken, **facts, "broken": broken})
    else:
        rows = [
            (name, ", ".join(f"{key} {_format_fact(value)}" for key, value in found.items()))
            for name, found in facts.items()
        ]
        output.print_lines([*output.format_columns(rows), "", *(broken or ["Everything works."])])
    return BROKEN_EXIT if broken else 0


def _check_program() -> Facts:
    from styler import provenance

    return {
        "styler": provenance.get_version(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processors": os.cpu_count(),
    }


def _check_torch() -> Facts:
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}


def _check_settings() -> Facts:
    found = config.load_config()
    changed = resolve_options(*found.layers).origins
    return {
        "files": [str(path) for path in config.list_config_paths() if config.is_readable(path)],
        "set": [name for name, origin in changed.items() if origin != "default"],
        "warnings": list(found.warnings),
    }


def _check_devices() -> Facts:
    """Every device, by name, with the bytes that are free."""
    import torch

    from styler.engine.device import choose_device, describe_device, free_memory

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    found = [choose_device(name) for name in names]
    free = {describe_device(device): f"{free_memory(device) / 1e9:.1f} GB free" for device in found}
    return {"chosen": str(choose_device(_load_options().device)), **free}


def _check_weights() -> Facts:
    """The embedded weights and those in the cache, by name, each read and checked against its hash."""
    from styler.vgg import registry, weights

    kept = [name for name in registry.FROM_TORCHVISION if registry.is_cached(name)]
    return {name: registry.load_backbone(name).sha256 for name in (*weights.SHA256, *kept)}


def _check_cache() -> Facts:
    from styler.vgg import registry

    folder = registry.get_cache_folder()
    return {"folder": str(folder), "bytes": sum(_count_bytes(path) for path in folder.rglob("*"))}


def _count_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_extras() -> Facts:
    """Whether each optional extra is installed; one that is and cannot be loaded is broken."""
    found = {}
    for name, module in EXTRA_MODULES.items():
        try:
            importlib.import_module(module)
            found[name] = True
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            found[name] = False
    return found


def _run_self_test() -> Facts:
    """Paint a bundled photo with a bundled painting, 64 pixels wide, on the chosen device.

    Raises:
        StylerError: the loss did not fall.
    """
    from styler import images, library
    from styler.engine.painter import Painter

    wanted = _load_options()
    options = Options(size=64, first_size=64, iterations=5, device=wanted.device, precision=wanted.precision)
    photo, painting = next(iter(library.list_contents().values())), next(iter(library.list_styles().values()))
    began = time.perf_counter()
    painter = Painter.of(options)
    losses = [
        progress.result.losses["total"] if progress.result else progress.loss
        for progress in painter.stream(images.read_image(photo), images.read_image(painting), options)
    ]
    if not losses[-1] < losses[0]:
        raise StylerError(
            f"Painting on {painter.device} did not lower the loss ({losses[0]:.4g}, then {losses[-1]:.4g}); "
            "try --device cpu or --precision fp32."
        )
    return {
        "device": str(painter.device),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": round(time.perf_counter() - began, 2),
    }


CHECKS: Mapping[str, Callable[[], Facts]] = {
    "program": _check_program,
    "torch": _check_torch,
    "settings": _check_settings,
    "devices": _check_devices,
    "weights": _check_weights,
    "cache": _check_cache,
    "extras": _check_extras,
    "self_test": _run_self_test,
}


def _load_options() -> Options:
    """What is set by files and environment; the defaults when that is broken, which another check tells."""
    try:
        return resolve_options(*config.load_config().layers).options
    except StylerError:
        return Options()


def _format_fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
