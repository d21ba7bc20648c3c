"""The masks that styler finds in a photo itself: its subject, its background, and the faces of people.

Everything is looked for on a small copy of the photo; the guided filter then moves the edges to those of a larger one.
Knows nothing about options, styles or files.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.geometry import fit_size
from styler.regions import guided, networks
from styler.regions.networks import FACES, SUBJECT, MaskNetwork
from styler.resample import resize

SMALL_SIDE, FINE_SIDE = 640, 2048
"""Long sides of the copies on which masks are fitted and on which they are drawn at most, in pixels."""
CACHE_BYTES = 64_000_000
"""The masks that are kept take at most this much memory."""

SUBJECT_SQUARE, SUBJECT_SIDE = 320, 384
"""Sides of the inputs of the subject's network: a square, as in its training, and the long side of one in proportion.

A thin arm is lost in the square, a subject that fills the photo in the other; together they miss little."""
SUBJECT_RADIUS, SUBJECT_EPSILON = 8, 1e-3
"""Of the guided filter on the small copy: as wide as the blur of the network's masks, and fine enough for hair."""
SUBJECT_LEVELS = (0.15, 0.85)
"""Below and above these, a mask becomes 0 and 1: the guided filter leaves some haze."""
MIN_SUBJECT = 0.5
"""A photo without any pixel that is at least so likely has no subject."""

FACE_SIDES = (320, 640)
"""Long sides of the inputs of the faces' network: the smaller one finds faces that fill the photo."""
MIN_FACE = 0.5
"""Least probability of a face."""
MAX_OVERLAP = 0.3
"""Two boxes whose intersection is more than this share of their union are one face."""
FACE_MARGIN = 1.2
"""Size of the ellipse relative to the box, which ends at the hairline, the ears and the chin."""
FACE_ASPECTS = (0.65, 0.9)
"""Smallest and largest width of a face relative to its height."""
FACE_EDGE = 0.15
"""Width of the soft edge of the ellipse, relative to its radius, to either side."""
FACE_RADIUS, FACE_EPSILON = 6, 1e-2
"""Of the guided filter on the small copy: it moves the edge a little, to the outline of the head."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face, in fractions of the photo's width and height."""

    probability: float
    box: tuple[float, float, float, float]
    """Left, top, right and bottom."""
    landmarks: tuple[tuple[float, float], ...]
    """Horizontal and vertical position of both eyes, the nose, and both corners of the mouth."""


class MaskFinder:
    """The networks on their device, loaded when they are first needed, and the masks of recent photos.

    Safe to use from several threads, which take turns. On one machine, the same photo always has the same masks.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._networks: dict[str, MaskNetwork] = {}
        self._masks: OrderedDict[tuple[str, str, int, int], Tensor | None] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, _memo: dict[int, object]) -> "MaskFinder":
        """Return a finder on the same device that has found nothing yet, since a lock cannot be copied."""
        return MaskFinder(self.device)

    def subject(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return the mask of the subject, (1, 1, H, W) in [0, 1] on the CPU; None if there is none.

        Args:
            photo: sRGB in [0, 1], (1, 3, H, W).
            digest: identifies the photo; an empty one is not cached.

        Raises:
            WeightsError: the network is missing or damaged.
        """
        return self._find(SUBJECT, self._draw_subject, photo, digest)

    def background(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return what `subject` leaves; None if there is no subject."""
        mask = self.subject(photo, digest)
        return None if mask is None else 1 - mask

    def faces(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return the mask of all faces, like `subject`; None if there is no face."""
        return self._find(FACES, self._draw_faces, photo, digest)

    def get_network(self, name: str) -> tuple[str, str]:
        """Return the name and the SHA-256 of the network that finds `subject`, `background` or `faces`."""
        network = FACES if name == "faces" else SUBJECT
        return network, networks.MASK_SHA256[network]

    def _find(
        self, name: str, draw: Callable[[Tensor, Tensor], Tensor | None], photo: Tensor, digest: str
    ) -> Tensor | None:
        """Return a mask from the cache, or draw it; it is kept in 8 bits at the size at which it was drawn."""
        height, width = photo.shape[-2:]
        key = (name, digest, height, width)
        with self._lock:
            if digest and key in self._masks:
                self._masks.move_to_end(key)
                mask = self._masks[key]
            else:
                fine = shrink(photo, FINE_SIDE)  # (1, 3, h, w)
                with torch.no_grad():
                    drawn = draw(fine.to(self.device), shrink(fine, SMALL_SIDE).to(self.device))
                mask = None if drawn is None else (drawn * 255).round().to(torch.uint8).cpu()  # (1, 1, h, w)
                if digest:
                    self._keep(key, mask)
        if mask is None:
            return None
        values = mask.float() / 255  # (1, 1, h, w)
        if (height, width) != tuple(values.shape[-2:]):
            values = F.interpolate(values, (height, width), mode="bilinear", align_corners=False)
        return values

    def _keep(self, key: tuple[str, str, int, int], mask: Tensor | None) -> None:
        """Keep a mask, and forget those that were not used for the longest time where they take too much memory."""
        self._masks[key] = mask
        while sum(each.numel() for each in self._masks.values() if each is not None) > CACHE_BYTES:
            self._masks.popitem(last=False)

    def _load(self, name: str) -> networks.Kernels:
        if name not in self._networks:
            self._networks[name] = networks.load_mask_network(name, self.device)
        return self._networks[name].kernels

    def _draw_subject(self, fine: Tensor, small: Tensor) -> Tensor | None:
        kernels, size = self._load(SUBJECT), small.shape[-2:]
        width, height = fit_input(small, SUBJECT_SIDE, networks.SUBJECT_STRIDE)
        masks = [
            networks.run_subject_network(kernels, resize(small, *sides))
            for sides in ((SUBJECT_SQUARE, SUBJECT_SQUARE), (width, height))
        ]
        if max(float(mask.max()) for mask in masks) < MIN_SUBJECT:
            return None
        square, proportional = (F.interpolate(mask, size, mode="bilinear", align_corners=False) for mask in masks)
        rough = torch.maximum(square, proportional)  # (1, 1, h, w)
        coefficients = guided.fit_guided(small, rough, SUBJECT_RADIUS, SUBJECT_EPSILON)  # (1, 4, h, w)
        low, high = SUBJECT_LEVELS
        return ((guided.apply_guided(fine, coefficients) - low) / (high - low)).clamp(0, 1)

    def _draw_faces(self, fine: Tensor, small: Tensor) -> Tensor | None:
        found = self._detect(small)
        if not found:
            return None
        height, width = small.shape[-2:]
        ellipses = [draw_ellipse(face, width, height).to(self.device) for face in found]
        rough = torch.stack(ellipses).amax(dim=0)  # (1, 1, h, w)
        return guided.apply_guided(fine, guided.fit_guided(small, rough, FACE_RADIUS, FACE_EPSILON))

    def detect_faces(self, photo: Tensor) -> list[Face]:
        """Return the faces of a photo (1, 3, H, W), the most probable first.

        Raises:
            WeightsError: the network is missing or damaged.
        """
        with self._lock, torch.no_grad():
            return self._detect(shrink(photo, SMALL_SIDE).to(self.device))

    def _detect(self, small: Tensor) -> list[Face]:
        kernels, faces = self._load(FACES), []
        for side in FACE_SIDES:
            width, height = fit_input(small, side, networks.FACE_STRIDE)
            output = networks.run_face_network(kernels, resize(small, width, height))
            faces += decode_faces(output.cpu())
        return select_faces(faces)


def shrink(photo: Tensor, side: int) -> Tensor:
    """Return a photo (1, 3, H, W) with a long side of at most `side` pixels."""
    long_side = max(photo.shape[-2:])
    if long_side <= side:
        return photo
    if (factor := long_side // (2 * side)) > 1:  # averaging is many times as fast as resizing
        photo = F.avg_pool2d(photo, factor, ceil_mode=True, count_include_pad=False)
    return resize(photo, *fit_size(photo.shape[-1], photo.shape[-2], side))


def fit_input(photo: Tensor, side: int, stride: int) -> tuple[int, int]:
    """Return width and height of a network's input: in the photo's proportion, rounded to multiples of `stride`."""
    ratio = side / max(photo.shape[-2:])
    height, width = (max(stride, round(length * ratio / stride) * stride) for length in photo.shape[-2:])
    return width, height


def decode_faces(output: Tensor) -> list[Face]:
    """Return the faces in the output of the network (15, h, w): the places that are likelier than their neighbors."""
    likely = output[0]  # (h, w)
    is_peak = (likely >= MIN_FACE) & (likely == F.max_pool2d(likely[None], 3, stride=1, padding=1)[0])
    height, width = likely.shape
    faces = []
    for y, x in is_peak.nonzero().tolist():
        values = output[:, y, x].tolist()
        tall, wide = (math.exp(value) / length for value, length in zip(values[1:3], (height, width), strict=True))
        top = (y + values[3] + 0.5) / height - tall / 2
        left = (x + values[4] + 0.5) / width - wide / 2
        landmarks = tuple(
            (left + across * wide, top + down * tall) for down, across in zip(values[5::2], values[6::2], strict=True)
        )
        faces.append(Face(values[0], (left, top, left + wide, top + tall), landmarks))
    return faces


def select_faces(faces: Iterable[Face]) -> list[Face]:
    """Return the most probable one of all faces that overlap, the most probable first."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.probability):
        if all(compute_overlap(face.box, other.box) <= MAX_OVERLAP for other in kept):
            kept.append(face)
    return kept


def compute_overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return the intersection of two boxes as a share of their union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def draw_ellipse(face: Face, width: int, height: int) -> Tensor:
    """Return the soft ellipse around a face, (1, 1, H, W) in [0, 1]: forehead, chin and ears, tilted as the face is.

    A box of half width w and half height h around an ellipse of semi-axes a and b that is tilted by t has
    w² = a² cos² t + b² sin² t and h² = a² sin² t + b² cos² t, which gives a and b unless t is near 45 degrees.

    Args:
        width: of the photo.
        height: of the photo.
    """
    left, top, right, bottom = face.box
    w, h = (right - left) / 2 * width, (bottom - top) / 2 * height
    points = [(x * width, y * height) for x, y in face.landmarks]
    eyes, mouth = ([(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in (points[:2], points[3:]))
    tilt = math.atan2(eyes[0] - mouth[0], mouth[1] - eyes[1])  # clockwise, 0 if the face is upright
    cos2, sin2 = math.cos(tilt) ** 2, math.sin(tilt) ** 2
    low, high = FACE_ASPECTS
    if abs(cos2 - sin2) > 0.5:
        squares = [(w * w * cos2 - h * h * sin2) / (cos2 - sin2), (h * h * cos2 - w * w * sin2) / (cos2 - sin2)]
        aspect = math.sqrt(max(squares[0], 0.0) / max(squares[1], 1e-9))
    else:
        aspect = (low + high) / 2
    aspect = min(max(aspect, low), high)
    b = FACE_MARGIN * math.sqrt((w * w + h * h) / (1 + aspect * aspect))
    x = torch.arange(width, dtype=torch.float32)[None, :] + 0.5 - (left + right) / 2 * width  # (1, W)
    y = torch.arange(height, dtype=torch.float32)[:, None] + 0.5 - (top + bottom) / 2 * height  # (H, 1)
    across = x * math.cos(tilt) + y * math.sin(tilt)  # (H, W)
    along = y * math.cos(tilt) - x * math.sin(tilt)  # (H, W)
    radius = ((across / (aspect * b)) ** 2 + (along / b) ** 2).sqrt()  # (H, W), 1 on the ellipse
    return ((1 + FACE_EDGE - radius) / (2 * FACE_EDGE)).clamp(0, 1)[None, None]
