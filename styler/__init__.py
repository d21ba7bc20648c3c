"""styler: repaint a photo in the style of a painting.

    from styler import Options, stylize

    result = stylize("photo.jpg", "painting.jpg", Options.of(preset="draft", strength=60))
    result.save("painted.png")

Parts of the photo can be kept, or take another painting (the last styles are those of the regions, in order); masks are
`subject`, `background`, `faces`, files, or arrays (height, width) from 0 outside to 1 inside:

    options = Options.of(protect=["faces=90"], regions=["sky"])
    result = stylize("photo.jpg", ["painting.jpg", "starry-night"], options, masks={"sky": sky})

A painting can go on after a crash, to the same pixels, from a state that its loop saves now and then:

    from styler import Painter
    from styler.engine.resume.state import Snapshot

    for progress in Painter().stream("photo.jpg", "painting.jpg"):
        if progress.iteration % 10 == 0 and not progress.result:
            progress.save_state("painting.state")  # before the next iteration begins

    Painter().stylize("photo.jpg", "painting.jpg", resume=Snapshot.load("painting.state"))

A node for ComfyUI, whose pictures are tensors (B, H, W, 3):

    import numpy as np, torch
    from styler import Options, Painter

    class StylePainter:
        RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "paint", "image"

        @classmethod
        def INPUT_TYPES(cls):
            strength = ("FLOAT", {"default": 50, "min": 0, "max": 100})
            return {"required": {"photos": ("IMAGE",), "paintings": ("IMAGE",), "strength": strength}}

        def paint(self, photos, paintings, strength):
            painter, options = Painter(), Options.of(preset="draft", size="original", strength=strength)
            painted = [painter.stylize(photo, list(paintings), options).pixels for photo in photos]
            return (torch.from_numpy(np.stack(painted)),)

    NODE_CLASS_MAPPINGS = {"StylePainter": StylePainter}

Names are imported when they are first used, so that `import styler` does not load PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from styler import environment

if TYPE_CHECKING:
    from styler.engine.painter import Painter, stream, stylize
    from styler.engine.result import Progress, Result
    from styler.errors import StylerError
    from styler.options import Options

_HOMES = {
    "Options": "styler.options",
    "Painter": "styler.engine.painter",
    "Progress": "styler.engine.result",
    "Result": "styler.engine.result",
    "StylerError": "styler.errors",
    "stream": "styler.engine.painter",
    "stylize": "styler.engine.painter",
}

__all__ = ["Options", "Painter", "Progress", "Result", "StylerError", "stream", "stylize"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'styler' has no attribute '{name}'")
    environment.prepare_process()  # before torch can load
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
