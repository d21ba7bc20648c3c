"""What is found in photos: soft masks of subject, background and faces, cached in bounded memory, in any thread."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from styler import images, library
from styler.regions import find, networks
from styler.regions.find import Face, MaskFinder, compute_overlap, draw_ellipse, fit_input, select_faces, shrink


def load_photo(name: str) -> Tensor:
    return torch.from_numpy(images.read_image(library.list_contents()[name]).pixels).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def finder() -> MaskFinder:
    return MaskFinder()


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    return load_photo("astronaut")  # (1, 3, 512, 512)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Replace the subject's network by a disc, and return the sizes of its inputs."""
    calls: list[tuple[int, ...]] = []

    def run(_kernels: object, image: Tensor) -> Tensor:
        calls.append(tuple(image.shape))
        height, width = image.shape[-2:]
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        return (x**2 + y**2 < 0.5).float()[None, None]

    monkeypatch.setattr(networks, "run_subject_network", run)
    return calls


def test_the_face_of_the_astronaut_is_found_and_nothing_else(finder: MaskFinder, astronaut: Tensor) -> None:
    mask = finder.faces(astronaut)
    assert mask is not None
    assert mask.shape == (1, 1, 512, 512)
    assert float(mask[..., 80:150, 200:250].min()) > 0.95  # from the forehead to the chin
    assert 0.02 < float(mask.mean()) < 0.1
    assert float(mask[..., 300:, :].max()) == 0


def test_subject_and_background_complement_each_other(finder: MaskFinder, astronaut: Tensor) -> None:
    subject, background = finder.subject(astronaut), finder.background(astronaut)
    assert subject is not None
    assert background is not None
    assert torch.allclose(subject + background, torch.ones(()))
    assert float(subject[..., 100:400, 220:240].mean()) > 0.95
    assert float(subject[..., :60, 300:].mean()) < 0.02


def test_a_cat_has_no_human_face(finder: MaskFinder) -> None:
    assert finder.faces(load_photo("cat")) is None


def test_a_flat_picture_has_no_subject_and_no_face(finder: MaskFinder) -> None:
    flat = torch.full((1, 3, 60, 90), 0.5)
    assert finder.faces(flat) is None


def test_an_unlikely_subject_is_none(monkeypatch: pytest.MonkeyPatch, finder: MaskFinder) -> None:
    monkeypatch.setattr(networks, "run_subject_network", lambda _kernels, image: 0.4 * torch.ones_like(image[:, :1]))
    assert finder.subject(torch.rand(1, 3, 40, 60)) is None
    assert finder.background(torch.rand(1, 3, 40, 60)) is None


def test_the_same_photo_has_the_same_mask_with_and_without_the_cache(astronaut: Tensor) -> None:
    first = MaskFinder()
    masks = [first.faces(astronaut, "a"), first.faces(astronaut, "a"), MaskFinder().faces(astronaut)]
    assert all(mask is not None and torch.equal(mask, masks[0]) for mask in masks)  # type: ignore[arg-type] # not None


def test_masks_are_found_once_for_each_photo_and_size(counted: list[tuple[int, ...]]) -> None:
    finder = MaskFinder()
    photo = torch.rand(1, 3, 48, 64)
    for digest in ("a", "a", "b", "a"):
        finder.subject(photo, digest)
    assert len(counted) == 2 * 2
    finder.subject(photo[..., :32], "a")  # another size
    assert len(counted) == 3 * 2
    finder.subject(photo)
    finder.subject(photo)  # without a digest, nothing is cached
    assert len(counted) == 5 * 2


def test_the_cache_is_bounded(counted: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "CACHE_BYTES", 3 * 48 * 64)
    finder = MaskFinder()
    photo = torch.rand(1, 3, 48, 64)
    for digest in "abcdabcd":  # each was forgotten when its turn comes again
        finder.subject(photo, digest)
    assert len(counted) == 8 * 2
    finder.subject(photo, "b")
    assert len(counted) == 8 * 2
    assert sum(each.numel() for each in finder._masks.values() if each is not None) <= 3 * 48 * 64


def test_threads_share_one_result(counted: list[tuple[int, ...]]) -> None:
    finder = MaskFinder()
    photo = torch.rand(1, 3, 48, 64)
    with ThreadPoolExecutor(4) as pool:
        masks = [*pool.map(lambda _: finder.subject(photo, "a"), range(8))]
    assert len(counted) == 2
    assert all(mask is not None and torch.equal(mask, masks[0]) for mask in masks)  # type: ignore[arg-type] # not None


def test_large_photos_are_looked_at_in_small(counted: list[tuple[int, ...]]) -> None:
    mask = MaskFinder().subject(torch.rand(1, 3, 3000, 5000))
    assert mask is not None
    assert mask.shape == (1, 1, 3000, 5000)
    assert max(max(shape) for shape in counted) <= find.SUBJECT_SIDE


@pytest.mark.parametrize(("height", "width"), [(3000, 4001), (2049, 100), (64, 2000), (17, 16)])
def test_a_shrunken_photo_keeps_its_proportions(height: int, width: int) -> None:
    small = shrink(torch.full((1, 3, height, width), 0.25), 640)
    assert max(small.shape[-2:]) == min(640, max(height, width))
    assert small.shape[-1] / small.shape[-2] == pytest.approx(width / height, rel=0.03)
    assert torch.allclose(small, torch.full((), 0.25), atol=1e-5)


def test_inputs_have_sides_that_the_network_can_halve() -> None:
    assert fit_input(torch.zeros(1, 3, 480, 640), 384, 32) == (384, 288)
    assert fit_input(torch.zeros(1, 3, 20, 640), 320, 32) == (320, 32)


def make_face(box: tuple[float, float, float, float], probability: float = 0.9, tilt: float = 0.0) -> Face:
    """Return a face with the eyes above the mouth, or turned clockwise by an angle in radians."""
    x, y, size = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[3] - box[1]
    places = ((-0.2, -0.1), (0.2, -0.1), (0.0, 0.05), (-0.15, 0.2), (0.15, 0.2))
    cos, sin = torch.cos(torch.tensor(tilt)).item(), torch.sin(torch.tensor(tilt)).item()
    landmarks = tuple((x + size * (a * cos - b * sin), y + size * (a * sin + b * cos)) for a, b in places)
    return Face(probability, box, landmarks)


def test_the_likeliest_of_overlapping_faces_is_kept() -> None:
    one, same = make_face((0.1, 0.1, 0.3, 0.4), 0.6), make_face((0.11, 0.1, 0.31, 0.41), 0.8)
    other = make_face((0.6, 0.1, 0.8, 0.4), 0.7)
    assert select_faces([one, same, other]) == [same, other]
    assert compute_overlap((0, 0, 2, 1), (1, 0, 3, 1)) == pytest.approx(1 / 3)
    assert compute_overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_the_ellipse_contains_the_whole_face_and_fades_outside() -> None:
    mask = draw_ellipse(make_face((0.3, 0.2, 0.6, 0.6)), 200, 200)[0, 0]
    assert mask.shape == (200, 200)
    assert float(mask[42:118, 90].min()) == 1  # from above the forehead to below the chin
    assert float(mask[80, 62:118].min()) == 1  # from ear to ear
    assert float(mask[:20].max()) == float(mask[:, :40].max()) == float(mask[150:].max()) == 0
    assert bool(((mask > 0) & (mask < 1)).any())


def test_the_ellipse_is_tilted_as_the_face_is() -> None:
    upright = draw_ellipse(make_face((0.3, 0.3, 0.6, 0.7)), 200, 200)[0, 0]
    turned = draw_ellipse(make_face((0.3, 0.35, 0.7, 0.65), tilt=torch.pi / 2), 200, 200)[0, 0]
    for mask, is_tall in ((upright, True), (turned, False)):
        rows, columns = (int((mask.amax(dim=dim) > 0.5).sum()) for dim in (1, 0))
        assert (rows > columns) == is_tall
