"""Scores of a picture that no optimizer here minimizes. Images are (1, 3, H, W), sRGB in [0, 1]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.objective.losses import chroma

TILE = 128
"""Side of the tiles of `blocks`, in pixels."""
LUMA = (0.299, 0.587, 0.114)
UNIT = 512
"""Long side of a picture whose strokes are measured in pixels; at other sizes they are measured in proportion."""


def luminance(image: Tensor) -> Tensor:
    """Return the luminance, (1, 1, H, W)."""
    return (image * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def laplacian(maps: Tensor) -> Tensor:
    """Compute the five-point Laplacian of each channel, inside the border."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, groups=maps.shape[1])


def blur(maps: Tensor, sigma: float = 2.0) -> Tensor:
    """Blur one channel with a Gaussian, (1, 1, H, W)."""
    radius = int(4 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def blur_color(image: Tensor, sigma: float = 4.0) -> Tensor:
    """Blur every channel, which leaves the colors of areas, (1, 3, H, W)."""
    return torch.cat([blur(image[:, channel : channel + 1], sigma) for channel in range(3)], dim=1)


def structure(image: Tensor, content: Tensor) -> float:
    """Correlate blurred luminance gradients with the content's: 1 is the content itself."""

    def gradients(picture: Tensor) -> Tensor:
        smooth = blur(luminance(picture))
        return torch.cat([smooth.diff(dim=-1).flatten(), smooth.diff(dim=-2).flatten()])

    return float(torch.corrcoef(torch.stack([gradients(image), gradients(content)]))[0, 1])


def noise(image: Tensor, style: Tensor) -> float:
    """Return the mean |Laplacian| of luminance over the style's."""
    return float(laplacian(luminance(image)).abs().mean() / laplacian(luminance(style)).abs().mean())


def speckle(image: Tensor) -> float:
    """Return the chroma noise, mean |Laplacian| of both chroma channels, of the worst 1 % of 16-pixel blocks."""
    blocks = F.avg_pool2d(laplacian(chroma(image)).abs().mean(1, keepdim=True), 16).flatten()
    return float(blocks.topk(max(1, round(0.01 * blocks.numel()))).values.mean())


def ssim(image: Tensor, content: Tensor) -> float:
    """Compute the structural similarity of luminance, Gaussian window of 1.5 pixels (Wang et al. 2004, equation 13)."""
    x, y = luminance(image), luminance(content)
    mean_x, mean_y = blur(x, 1.5), blur(y, 1.5)
    var_x, var_y = blur(x * x, 1.5) - mean_x**2, blur(y * y, 1.5) - mean_y**2
    shared = blur(x * y, 1.5) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    return float((above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def grid(image: Tensor) -> float:
    """Measure how far roughness depends on the position in a lattice of 2, 4, 8 or 16 pixels, on the worse axis.

    Returns:
        The share by which the roughest phase of the lattice is above the smoothest. A natural picture has no lattice.
    """
    maps = luminance(image)
    worst = 0.0
    for axis, across in ((-1, -2), (-2, -1)):
        rough = maps.diff(n=2, dim=axis).abs().mean(dim=across).flatten()
        for period in (2, 4, 8, 16):
            phases = rough[: len(rough) // period * period].view(-1, period).mean(dim=0)
            worst = max(worst, float((phases.max() - phases.min()) / phases.mean()))
    return worst


def palette(image: Tensor, style: Tensor) -> float:
    """Return the total variation distance of the 2-D histograms of chroma, 0 (the same colors) to 1 (none shared)."""

    def histogram(picture: Tensor) -> Tensor:
        bins = ((chroma(picture) + 0.5) * 32).long().clamp(0, 31)  # (1, 2, H, W)
        counts = torch.bincount((bins[:, 0] * 32 + bins[:, 1]).flatten(), minlength=1024).float()
        return counts / counts.sum()

    return float((histogram(image) - histogram(style)).abs().sum() / 2)


def measure_flatness(content: Tensor) -> Tensor:
    """Return 1 in the flatter half of a photo and 0 in the other, (1, 1, H, W).

    What a picture shows in that half is paint: the photo has no edges there.
    """
    unit = max(content.shape) / UNIT
    xx, _, yy = structure_tensor(blur(luminance(content), unit), 4 * unit)
    return (xx + yy <= (xx + yy).median()).float()


def structure_tensor(maps: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the structure tensor of one channel: xx, xy and yy, blurred, each (1, 1, H, W).

    The gradient is Scharr's, which hardly depends on the direction of an edge (H. Scharr 2000).
    """
    smooth, slope = torch.tensor([3.0, 10, 3]) / 16, torch.tensor([-1.0, 0, 1]) / 2
    kernels = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]  # (2, 1, 3, 3)
    x, y = F.conv2d(F.pad(maps, (1,) * 4, mode="replicate"), kernels).chunk(2, dim=1)
    return blur(x * x, sigma), blur(x * y, sigma), blur(y * y, sigma)


def extract_paint(image: Tensor) -> Tensor:
    """Return what is finer than areas of light and shade, with even contrast, so that all parts count, (1, 1, H, W)."""
    unit = max(image.shape) / UNIT
    maps = luminance(image)
    detail = blur(maps, 0.5 * unit) - blur(maps, 6 * unit)
    contrast = blur(detail * detail, 8 * unit).sqrt()
    return detail / (contrast + 0.2 * contrast.mean()).clamp(min=1e-6)


def coherence(image: Tensor, where: Tensor | None = None) -> float:
    """Measure how far brushstrokes side by side share one direction: 0 (none) to 1 (all parallel).

    This is (λ₁ − λ₂) / (λ₁ + λ₂) of the structure tensor (J. Bigün and G. Granlund 1987), the geometric mean of three
    scales: what is common to 2, 4 and 8 pixels of a picture of 512.

    Args:
        where: weights of positions, (1, 1, H, W); for a picture, `measure_flatness` of its photo, whose outlines count
            as strokes otherwise.
    """
    unit, paint = max(image.shape) / UNIT, extract_paint(image)
    weights = torch.ones_like(paint) if where is None else where
    product = 1.0
    for sigma in (2, 4, 8):
        xx, xy, yy = structure_tensor(paint, sigma * unit)
        trace = xx + yy
        share = ((xx - yy).square() + 4 * xy.square()).sqrt() / (trace + 0.05 * trace.mean()).clamp(min=1e-12)
        product *= float((share * weights).sum() / weights.sum())
    return math.cbrt(product)


def stroke_length(image: Tensor, where: Tensor | None = None) -> float:
    """Measure how far paint stays the same along a stroke, in pixels of a picture of 512.

    From 4096 points, walk along the direction of the strokes and correlate the paint with that of the start; the length
    is the integral of the correlation over the first 24 pixels, the mean of both ways.

    Args:
        where: as for `coherence`.
    """
    unit, paint = max(image.shape) / UNIT, extract_paint(image)
    size = torch.tensor([image.shape[-1], image.shape[-2]])
    xx, xy, yy = structure_tensor(paint, 2 * unit)
    twice = torch.cat([yy - xx, -2 * xy], dim=1)  # the direction at twice its angle, which has no sign, (1, 2, H, W)
    start = sample_points(image.shape[-2], image.shape[-1], 4096)
    if where is not None:
        start = start[_read_at(where, start, size)[:, 0] > 0.5]
    color, total = _read_at(paint, start, size), 0.0
    for way in (1.0, -1.0):
        points, before = start, None
        for _ in range(24):
            double = _read_at(twice, points, size)
            angle = torch.atan2(double[:, 1], double[:, 0]) / 2
            step = torch.stack([angle.cos(), angle.sin()], dim=1)  # (N, 2)
            step *= way if before is None else torch.where((step * before).sum(1, keepdim=True) < 0, -1.0, 1.0)
            points, before = points + step * unit, step
            inside = ((points >= 0) & (points <= size)).all(1)
            ours, theirs = color[inside], _read_at(paint, points, size)[inside]
            total += max(0.0, float((ours * theirs).sum() / (ours.norm() * theirs.norm()).clamp(min=1e-12)))
    return total / 2


def sample_points(height: int, width: int, count: int) -> Tensor:
    """Return about so many points x, y, one at random in each cell of a lattice, always the same, (N, 2)."""
    rows = max(1, round((count * height / width) ** 0.5))
    columns = max(1, round(count / rows))
    jitter = torch.rand((rows, columns, 2), generator=torch.Generator().manual_seed(0))
    cells = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1)
    return ((cells + jitter) * torch.tensor([width / columns, height / rows])).view(-1, 2)


def _read_at(maps: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """Interpolate maps (1, C, H, W) at points (N, 2) in pixels: (N, C)."""
    grid = (2 * points / size - 1)[None, None]  # (1, 1, N, 2)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, :, 0].T


def blocks(image: Tensor, where: Tensor | None = None) -> float:
    """Compare lines along both axes with lines at 12 to 33° to them, at periods of 4 to 11 pixels.

    A draft can show a weave of short horizontal and vertical bars, the lattices of the network's poolings. In the
    spectrum that is energy on both axes. Strokes, even level ones, spread over many angles; cables, horizons and level
    strokes are along one axis only. So of each tile of 128 pixels, the axis with less of that energy counts.

    Args:
        where: as for `coherence`; the photo may have such lines itself. Tiles mostly outside do not count.

    Returns:
        The ratio of the energy within 6° of an axis to that at 12 to 33°, per frequency, in the worst quarter of the
        tiles: 1.0 to 1.5 in clean pictures, more than 2 with the fault; 0 if no tile counts.
    """
    paint = extract_paint(image)
    side = min(TILE, *paint.shape[-2:])
    window = torch.hann_window(side, periodic=False)[:, None] * torch.hann_window(side, periodic=False)
    tiles, inside = (
        maps[0, 0].unfold(0, side, side // 2).unfold(1, side, side // 2).reshape(-1, side, side)
        for maps in (paint, torch.ones_like(paint) if where is None else blur(where, 6.0))
    )
    weights = inside * window
    counts = weights.sum((1, 2)) > 0.4 * window.sum()
    if not counts.any():
        return 0.0
    tiles, weights = tiles[counts], weights[counts]
    tiles = tiles - ((tiles * weights).sum((1, 2)) / weights.sum((1, 2)))[:, None, None]
    energy = torch.fft.fft2(tiles * weights, (2 * side, 2 * side)).abs().square()
    along = torch.fft.fftfreq(2 * side)
    frequency = (along.square()[:, None] + along.square()).sqrt()
    angle = torch.rad2deg(torch.atan2(along.abs()[:, None], along.abs()))
    axes = []
    for turned in (angle, 90 - angle):
        ratios = []
        for shortest in (4.0, 4.0 * 2**0.5, 8.0):
            band = (frequency > 1 / (shortest * 2**0.5)) & (frequency <= 1 / shortest)
            on, near = band & (turned < 6), band & (turned >= 12) & (turned < 33)
            ratios += [energy[:, on].mean(1) / energy[:, near].mean(1).clamp(min=1e-12)]
        axes += [torch.stack(ratios).clamp(min=1e-12).log().mean(0).exp()]
    least = torch.minimum(*axes)
    return float(least.topk(max(1, len(least) // 4)).values.mean())


def nearest_distance(features: Tensor, candidates: Tensor) -> float:
    """Return the mean cosine distance of features (N, C) to the nearest of the candidates (M, C), both centered.

    Both are centered by the mean of the candidates, so that a picture of other features throughout is not near.
    """
    mean = candidates.mean(0)
    theirs = F.normalize(candidates - mean, dim=1)
    nearest = [(F.normalize(ours - mean, dim=1) @ theirs.T).amax(1) for ours in torch.split(features, 512)]
    return float(1 - torch.cat(nearest).mean())


def compare_self_similarity(features: Tensor, others: Tensor) -> float:
    """Correlate the similarities of all pairs of positions with those of another picture, features (N, C): 1 is equal.

    The cosines of centered features say which parts of a picture look alike, whatever they are painted with (the
    self-similarity of N. Kolkin et al., "Style Transfer by Relaxed Optimal Transport and Self-Similarity", 2019).
    """

    def compute_similarities(maps: Tensor) -> Tensor:
        directions = F.normalize(maps - maps.mean(0), dim=1)
        rows, columns = torch.triu_indices(len(maps), len(maps), 1)
        return (directions @ directions.T)[rows, columns]

    return float(torch.corrcoef(torch.stack([compute_similarities(features), compute_similarities(others)]))[0, 1])
