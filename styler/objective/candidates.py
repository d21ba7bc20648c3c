"""The places of the styles that can be matched with places of the image, and their features.

The *column* of a place joins the features of several layers there; it is compared with those of other places.

Knows features only: no images, options or files.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.objective.losses import SHORTEST

Maps = Mapping[str, Tensor]
"""Features by layer, each (1, C, H, W)."""
STORED_TYPE = torch.float16
"""The type of the columns and of the styles' features: far below its limit, and half the memory of float32."""
CODE_LENGTH = 96
"""Principal components by which candidates are compared first."""
GROUP_SIZE = 64
"""Candidates whose maximum is taken before the finalists are selected."""
PROJECTED_ROWS = 1024
"""Columns converted to float32 at once."""
PCA_SAMPLES = 4096
"""Columns of the style, and as many of the content, from which the principal components are computed. With those of the
style alone, twice as many components would be needed: they miss what makes a query more similar to one than another."""


def compute_columns(maps: Maps, base: str, places: Tensor | None = None) -> Tensor:
    """Return the centered columns of an image, (N, ΣC), in `STORED_TYPE`.

    Every layer is centered by its own mean and divided by its own standard deviation, so that all count equally.

    Args:
        maps: the features of all matched layers.
        base: the layer at whose positions the columns are.
        places: the N of these positions that are wanted, (N,); None for all.
    """
    size = (maps[base].shape[-2], maps[base].shape[-1])
    width = sum(each.shape[1] for each in maps.values())
    count = size[0] * size[1] if places is None else len(places)
    columns = torch.empty((count, width), dtype=STORED_TYPE, device=maps[base].device)
    parts = torch.split(columns, [each.shape[1] for each in maps.values()], dim=1)
    for part, maps_of_layer in zip(parts, maps.values(), strict=True):
        rows = flatten_maps(resize_maps(maps_of_layer, size))  # (N, C)
        rows = rows if places is None else rows.index_select(0, places)
        mean, chunks = rows.mean(dim=0, dtype=torch.float32), torch.split(rows, PROJECTED_ROWS)
        squares = torch.stack([(chunk - mean).square_().sum() for chunk in chunks]).sum()
        scale = 1 / (squares / len(rows)).sqrt().clamp(min=SHORTEST)
        for target, chunk in zip(torch.split(part, PROJECTED_ROWS), chunks, strict=True):
            target.copy_((chunk - mean).mul_(scale))
    return columns


def flatten_maps(maps: Tensor) -> Tensor:
    """Return the channels of every position of (1, C, H, W), (H · W, C)."""
    return maps[0].permute(1, 2, 0).reshape(-1, maps.shape[1])


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a layer to the height and width of another: averaged if it is larger, interpolated if it is smaller."""
    if maps.shape[-2] > size[0] and maps.shape[-1] > size[1]:
        maps = F.avg_pool2d(maps, _compute_stride(maps.shape[-2], size[0]))[..., : size[0], : size[1]]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _compute_stride(fine: int, coarse: int) -> int:
    """Return the power of two by which a side was divided and rounded down."""
    return 1 << (fine.bit_length() - coarse.bit_length())


def normalize_columns(columns: Tensor) -> Tensor:
    """Return columns (N, C) divided by their lengths, in float32."""
    return F.normalize(columns.float(), dim=1, eps=SHORTEST)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The places of all styles, in all their views, that can be matched."""

    base: str
    """The layer at whose positions the columns are."""
    counts: tuple[int, ...]
    """Number of candidates of each style; they follow one another."""
    styles: Tensor
    """The style of each candidate, (K,)."""
    columns: Tensor
    """Columns of length 1, (K, ΣC), in `STORED_TYPE`."""
    codes: tuple[Tensor, ...]
    """Their principal components for each style, (`GROUP_SIZE`, G, D); the last of the groups' members begin again
    with the first candidates."""
    basis: Tensor
    """The directions of the principal components, (ΣC, D), in float32."""
    places: Tensor
    """View, row and column of each candidate, at the stride of the base layer, (K, 3)."""
    indices: Tensor
    """The candidate at each of the base layer's rows, or -1 where it was left out, (R,)."""
    rows: Maps
    """Features of all positions of all views by layer, each (R, C), in `STORED_TYPE`."""
    grids: Maps
    """For every view the first of its rows, its height and its width in each layer, (V, 3)."""


def prepare_candidates(
    styles: Iterable[Iterable[Maps]],
    example: Tensor,
    base: str,
    limit: int,
    numbers: Sequence[Sequence[int]] | None = None,
) -> Candidates:
    """Prepare the candidates of one or more styles.

    Args:
        styles: for each style the features of the style and of its rotated copies.
        example: columns of the content, or some of them, which are similar to the queries, (n, ΣC).
        base: the layer at whose positions the columns are.
        limit: the largest number of candidates; if there are more, some are left out, evenly among all views.
        numbers: the positions of the base layer in each view of each style, if these are computed only when they are
            taken, so that the features of one at a time are held; None for those of `styles`, which are lists.
    """
    if numbers is None:
        styles = [[*style] for style in styles]
        numbers = [[maps[base].shape[-2] * maps[base].shape[-1] for maps in style] for style in styles]
    total = sum(map(sum, numbers))
    if total > limit:
        numbers = [[max(1, number * limit // total) for number in style] for style in numbers]
    counts = [sum(style) for style in numbers]
    columns = example.new_empty(sum(counts), example.shape[1])  # (K, ΣC)
    each_view = torch.split(columns, [number for style in numbers for number in style])
    views = zip(itertools.chain.from_iterable(styles), each_view, strict=True)
    kept = [_keep_view(view, maps, base, part) for view, (maps, part) in enumerate(views)]
    grids = {layer: _list_grids([view.shapes[layer] for view in kept]).to(columns.device) for layer in kept[0].rows}
    rows = {layer: torch.cat([view.rows.pop(layer) for view in kept]) for layer in grids}
    all_places = torch.cat([view.places for view in kept])  # (K, 3)
    indices = torch.full((len(rows[base]),), -1, device=columns.device)
    indices[find_rows(all_places, grids[base])] = torch.arange(len(columns), device=columns.device)
    basis, codes = _make_codes(columns, example, kept[0].dtype)
    return Candidates(
        base,
        tuple(counts),
        torch.cat([torch.full((count,), style, device=columns.device) for style, count in enumerate(counts)]),
        columns,
        tuple(_split_groups(own) for own in torch.split(codes, counts)),
        basis,
        all_places,
        indices,
        rows,
        grids,
    )


class _View(NamedTuple):
    """What is kept of one view of a style."""

    places: Tensor
    """View, row and column of its candidates, (n, 3)."""
    rows: dict[str, Tensor]
    """By layer, (H · W, C), in `STORED_TYPE`."""
    shapes: dict[str, torch.Size]
    """Of the features of each layer."""
    dtype: torch.dtype
    """Of the features."""


def _keep_view(view: int, maps: Maps, base: str, columns: Tensor) -> _View:
    """Write the columns of some places of a view to `columns`, (n, ΣC), and return what else is kept."""
    own, places = compute_columns(maps, base), _list_places(view, maps[base])
    chosen = _choose_some(len(own), len(columns)).to(own.device)
    for target, part in zip(torch.split(columns, PROJECTED_ROWS), torch.split(chosen, PROJECTED_ROWS), strict=True):
        target.copy_(normalize_columns(own[part]))
    rows = {layer: _store_rows(each) for layer, each in maps.items()}
    return _View(places[chosen], rows, {layer: each.shape for layer, each in maps.items()}, maps[base].dtype)


def _make_codes(columns: Tensor, example: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the principal directions of candidates (K, ΣC) and examples, (ΣC, D), and the former's codes, (K, D)."""
    samples = [normalize_columns(each[:: math.ceil(len(each) / PCA_SAMPLES)]) for each in (columns, example)]
    basis = find_principal_components(samples, CODE_LENGTH)
    codes = [(part.float() @ basis).to(dtype) for part in torch.split(columns, PROJECTED_ROWS)]
    return basis, torch.cat(codes)


def _store_rows(maps: Tensor) -> Tensor:
    """Return the channels of every position of (1, C, H, W) in `STORED_TYPE`, (H · W, C)."""
    return flatten_maps(maps).clamp(max=torch.finfo(STORED_TYPE).max).to(STORED_TYPE)


def _choose_some(total: int, count: int) -> Tensor:
    """Return some of `total` indices in order, on the CPU: always the same ones, but without a regular pattern."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values


def _split_groups(codes: Tensor) -> Tensor:
    """Return codes (K, D) in groups of members G apart, (`GROUP_SIZE`, G, D)."""
    missing = -len(codes) % GROUP_SIZE
    again = codes.repeat(math.ceil(missing / len(codes)), 1)[:missing]
    return torch.cat([codes, again]).view(GROUP_SIZE, -1, codes.shape[1])


def _list_places(view: int, maps: Tensor) -> Tensor:
    """Return view, row and column of every position of (1, C, H, W), (H · W, 3)."""
    height, width = maps.shape[-2:]
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    return torch.cartesian_prod(torch.full((1,), view, device=maps.device), rows, columns)


def _list_grids(shapes: Sequence[torch.Size]) -> Tensor:
    """Return where each view begins in the rows of all, its height and its width, (V, 3), on the CPU."""
    grids, first = [], 0
    for height, width in (shape[-2:] for shape in shapes):
        grids.append((first, height, width))
        first += height * width
    return torch.tensor(grids)


def find_principal_components(samples: Iterable[Tensor], count: int) -> Tensor:
    """Return the orthogonal directions (C, D) in which samples are longest on average, at most `count`.

    Args:
        samples: each (N, C), in float32; all count equally, however many rows they have.
        count: the largest D.
    """
    moments = torch.stack([rows.T @ rows / len(rows) for rows in samples]).sum(dim=0)  # (C, C)
    _, vectors = torch.linalg.eigh(moments.cpu())  # MPS does not support it
    components: Tensor = vectors[:, -count:].to(moments)
    return components


def gather_features(layer: str, size: tuple[int, int], matches: Tensor, candidates: Candidates) -> Tensor:
    """Return a layer's features at the matched places of the style, (1, C, H, W), in `STORED_TYPE`.

    A layer finer than the base has several positions for each match, which are taken together; for a coarser one the
    features of several matches are averaged.

    Args:
        layer: one of the matched layers.
        size: height and width of the layer in the image.
        matches: indices of candidates on the grid of the base layer, (h, w).
        candidates: the places of the style.
    """
    places = candidates.places[matches]  # (h, w, 3)
    (height, width), (base_height, base_width) = size, matches.shape
    if height > base_height:
        factor = _compute_stride(height, base_height)
        down, across = torch.arange(height, device=matches.device), torch.arange(width, device=matches.device)
        base_down, base_across = (
            (down // factor).clamp(max=base_height - 1),
            (across // factor).clamp(max=base_width - 1),
        )
        places = places[base_down][:, base_across]  # (H, W, 3)
        y = places[..., 1] * factor + (down - base_down * factor)[:, None]
        x = places[..., 2] * factor + (across - base_across * factor)
        return _look_up(layer, places[..., 0], y, x, candidates)
    factor = _compute_stride(base_height, height)
    target = _look_up(layer, places[..., 0], places[..., 1] // factor, places[..., 2] // factor, candidates)
    return target if factor == 1 else F.avg_pool2d(target, factor)[..., :height, :width]


def _look_up(layer: str, view: Tensor, y: Tensor, x: Tensor, candidates: Candidates) -> Tensor:
    """Return the features of a layer, (1, C, H, W), at positions of views, each (H, W)."""
    index = find_rows(torch.stack([view, y, x], dim=-1), candidates.grids[layer])  # (H, W)
    return candidates.rows[layer][index.flatten()].view(1, *index.shape, -1).permute(0, 3, 1, 2)


def find_rows(places: Tensor, grids: Tensor) -> Tensor:
    """Return the row of each of `places`, view, row and column, (..., 3); those outside are the nearest inside."""
    first, rows, columns = grids[places[..., 0]].unbind(dim=-1)
    y, x = places[..., 1].clamp(min=0), places[..., 2].clamp(min=0)
    return first + torch.minimum(y, rows - 1) * columns + torch.minimum(x, columns - 1)
