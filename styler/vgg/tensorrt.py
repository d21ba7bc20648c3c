"""`vgg export --tensorrt`: an engine for NVIDIA's TensorRT, built by its own `trtexec`.

The precision comes from the ONNX model, as TensorRT 11 wants it; version 10 also takes a flag for it.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

from styler.errors import StylerError
from styler.vgg.export import INPUT

PROGRAM = "trtexec"
SMALLEST, USUAL, LARGEST = (64, 64), (512, 512), (2048, 2048)
"""Heights and widths that an engine takes: at least, at best, at most."""
FLAGS_OF_10 = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}


def command(model: Path, engine: Path, form: str = "fp32", version: int = 11) -> list[str]:
    """The arguments that build an engine from a model.

    Args:
        model: ONNX, as `styler.vgg.export` writes it.
        engine: the file to write.
        form: of the model: `fp32`, `fp16` or `int8`.
        version: of TensorRT; 10 has flags for the precision, which 11 dropped.
    """
    shapes = {
        name: f"--{name}Shapes={INPUT}:1x3x{height}x{width}"
        for name, (height, width) in {"min": SMALLEST, "opt": USUAL, "max": LARGEST}.items()
    }
    flags = FLAGS_OF_10[form] if version <= 10 else ()
    return [PROGRAM, f"--onnx={model}", f"--saveEngine={engine}", *shapes.values(), *flags]


def commands(model: Path, engine: Path, form: str) -> list[str]:
    """Both forms, as one would type them."""
    eleven, ten = (shlex.join(command(model, engine, form, version)) for version in (11, 10))
    return [f"TensorRT 11 and later: {eleven}", f"TensorRT 10: {ten}"]


def build(model: Path, engine: Path, form: str = "fp32") -> Path:
    """Build the engine.

    Raises:
        StylerError: `trtexec` is not on the PATH, or failed; the sentence has the command.
    """
    found = shutil.which(PROGRAM)
    arguments = command(model, engine, form)
    if found is None:
        raise StylerError(
            f"{PROGRAM} is not on the PATH, so no engine was built from '{model}'; where TensorRT is installed, run "
            f"`{shlex.join(arguments)}` (version 10: `{shlex.join(command(model, engine, form, 10))}`)."
        )
    done = subprocess.run([found, *arguments[1:]], capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode or not engine.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise StylerError(
            f"{PROGRAM} built no engine from '{model}' (exit code {done.returncode}: {said[0][:200]}); "
            f"run `{shlex.join(arguments)}` to see all it says."
        )
    return engine
