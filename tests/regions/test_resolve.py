"""Options that name masks become areas: protection, regions, automatic faces, and what is refused or warned about."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import save_image
from PIL import Image
from torch import Tensor

from styler.errors import ImageError, OptionError, UsageError
from styler.options import Options
from styler.regions.resolve import GENTLE, MaskEntry, ResolvedAreas, resolve_areas

PHOTO = torch.full((1, 3, 40, 60), 0.5)


def make_mask(first: int, last: int) -> Tensor:
    """Return a mask of columns, (1, 1, 40, 60)."""
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., first:last] = 1
    return mask


LEFT, RIGHT, FACE = make_mask(0, 30), make_mask(30, 60), make_mask(10, 15)


class FakeFinder:
    """Finds what it was told, and counts how often."""

    def __init__(self, subject: Tensor | None = LEFT, face: Tensor | None = FACE) -> None:
        self._subject, self._face, self.calls = subject, face, 0

    def subject(self, photo: Tensor, digest: str = "") -> Tensor | None:
        self.calls += 1
        return self._subject

    def background(self, photo: Tensor, digest: str = "") -> Tensor | None:
        return None if self._subject is None else 1 - self._subject

    def faces(self, photo: Tensor, digest: str = "") -> Tensor | None:
        self.calls += 1
        return self._face

    def get_network(self, name: str) -> tuple[str, str]:
        return f"net of {name}", "0" * 64


def resolve(
    styles: int = 1, masks: Mapping[str, Any] | None = None, finder: FakeFinder | None = None, **settings: Any
) -> ResolvedAreas:
    return resolve_areas(Options(**settings), PHOTO, "digest", styles, masks, finder or FakeFinder())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a working folder with masks and a label picture."""
    monkeypatch.chdir(tmp_path)
    values = (RIGHT[0, 0] * 255).to(torch.uint8).numpy()
    Path("right.png").write_bytes(save_image("PNG", Image.fromarray(values)))
    labels = np.zeros((20, 30, 3), dtype=np.uint8)
    labels[:, :15, 0], labels[:, 15:, 2] = 255, 255
    Path("labels.png").write_bytes(save_image("PNG", Image.fromarray(labels)))


def test_nothing_but_the_default_without_a_face_is_no_areas_at_all() -> None:
    resolved = resolve(finder=FakeFinder(face=None))
    assert resolved.areas is None
    assert resolved.warnings == ()
    assert resolved.entries == ()


def test_faces_are_gently_protected_by_default() -> None:
    resolved = resolve(styles=2)
    assert resolved.areas is not None
    assert resolved.areas.protection is not None
    assert torch.equal(resolved.areas.protection, FACE * GENTLE / 100)
    assert torch.equal(resolved.areas.regions, torch.ones(1, 1, 40, 60))
    assert resolved.areas.styles == ((0, 1),)
    assert resolved.warnings == ()


@pytest.mark.parametrize(
    "settings", [{"protect": ("none",)}, {"strength": 0}, {"look": "gatys"}, {"look": "gram"}], ids=str
)
def test_nothing_is_protected_on_request_at_strength_0_and_by_reproductions(settings: dict[str, Any]) -> None:
    finder = FakeFinder()
    assert resolve(finder=finder, **settings).areas is None
    assert finder.calls == 0


def test_protections_are_combined_by_maximum() -> None:
    areas = resolve(protect=("subject=40", "faces=90")).areas
    assert areas is not None
    assert areas.protection is not None
    assert torch.allclose(areas.protection, torch.maximum(0.4 * LEFT, 0.9 * FACE))


def test_the_amount_is_70_unless_it_is_given() -> None:
    areas = resolve(protect=("background",), look="gatys").areas
    assert areas is not None
    assert areas.protection is not None
    assert float(areas.protection.max()) == pytest.approx(0.7)


@pytest.mark.parametrize(("name", "word"), [("faces", "face"), ("subject", "subject"), ("background", "subject")])
def test_a_protection_without_its_object_is_a_warning(name: str, word: str) -> None:
    resolved = resolve(protect=(name,), finder=FakeFinder(None, None))
    assert resolved.areas is None
    assert len(resolved.warnings) == 1
    assert resolved.warnings[0].startswith(f"No {word} was found in the photo")
    assert resolved.warnings[0].endswith("; nothing is protected.")


def test_the_last_styles_belong_to_the_regions() -> None:
    resolved = resolve(styles=4, regions=("subject", "own"), masks={"own": make_mask(40, 60)}, protect=("none",))
    assert resolved.areas is not None
    assert resolved.areas.styles == ((0, 1), (2,), (3,))
    assert torch.equal(resolved.areas.regions[:, 1:2], LEFT)
    assert torch.equal(resolved.areas.regions[:, :1], make_mask(30, 40))
    assert torch.allclose(resolved.areas.regions.sum(dim=1), torch.ones(()))
    assert resolved.warnings == ()


def test_overlapping_regions_share_and_warn_once() -> None:
    masks = {"a": make_mask(0, 30), "b": make_mask(20, 50), "c": make_mask(20, 30)}
    resolved = resolve(styles=4, regions=("a", "b", "c"), masks=masks, protect=("none",))
    assert resolved.areas is not None
    assert torch.allclose(resolved.areas.regions[0, :, 0, 25], torch.tensor([0, 1, 1, 1]) / 3)
    assert [*resolved.warnings] == ["Regions overlap; where they do, each painting gets its share."]


def test_regions_that_cover_the_photo_leave_out_the_rest() -> None:
    resolved = resolve(styles=3, regions=("subject", "background"), protect=("none",))
    assert resolved.areas is not None
    assert resolved.areas.styles == ((1,), (2,))
    assert torch.equal(resolved.areas.regions, torch.cat([LEFT, RIGHT], dim=1))
    assert "the painting for the rest is not used" in resolved.warnings[0]


def test_a_region_without_its_object_is_left_out() -> None:
    resolved = resolve(styles=2, regions=("faces",), finder=FakeFinder(face=None))
    assert resolved.areas is not None
    assert resolved.areas.styles == ((0,),)
    assert torch.equal(resolved.areas.regions, torch.ones(1, 1, 40, 60))
    assert resolved.warnings == ("No face was found in the photo; its painting is not used.",)


@pytest.mark.parametrize(("styles", "regions"), [(1, ("subject",)), (2, ("subject", "faces")), (1, ("a", "b", "c"))])
def test_the_rest_needs_a_painting(styles: int, regions: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"leaves none for the rest of the photo; give one more painting.*\.$"):
        resolve(styles=styles, regions=regions)


def test_masks_of_a_program_come_first() -> None:
    areas = resolve(protect=("faces=100",), masks={"faces": RIGHT}).areas
    assert areas is not None
    assert areas.protection is not None
    assert torch.equal(areas.protection, RIGHT)


def test_files_and_labels_are_masks(files: None) -> None:
    resolved = resolve(styles=2, protect=("right.png=100",), regions=("#ff0000",), labels="labels.png")
    assert resolved.areas is not None
    assert resolved.areas.protection is not None
    assert torch.equal(resolved.areas.protection, RIGHT)
    assert float((resolved.areas.regions[:, 1:] - LEFT).abs().mean()) < 0.02
    assert [(entry.name, entry.kind) for entry in resolved.entries] == [("right.png", "file"), ("#ff0000", "label")]
    with pytest.raises(ImageError, match=r"'labels.png' has no #00ff00; its colors are #0000ff, #ff0000\."):
        resolve(protect=("#00ff00",), labels="labels.png")


def test_what_does_not_exist_is_explained(files: None) -> None:
    with pytest.raises(OptionError, match=r"There is no mask or file 'faecs' \(did you mean 'faces'\?\)"):
        resolve(protect=("faecs",))
    with pytest.raises(ImageError, match=r"Cannot read 'missing.png': there is no such file"):
        resolve(protect=("missing.png",))
    with pytest.raises(ImageError, match=r"Cannot read 'no.png'"):
        resolve(protect=("#ff0000",), labels="no.png")


def test_every_mask_is_recorded_once() -> None:
    resolved = resolve(styles=3, protect=("subject", "own=10"), regions=("subject", "own"), masks={"own": RIGHT})
    subject, own = resolved.entries
    assert subject == MaskEntry("subject", "found", subject.sha256, 0.5, "net of subject", "0" * 64)
    assert own == MaskEntry("own", "given", own.sha256, 0.5)
    assert len(subject.sha256) == 64
    assert subject.sha256 != own.sha256


def test_the_digest_tells_areas_apart() -> None:
    variants = [
        resolve(styles=2),
        resolve(styles=3),
        resolve(styles=2, protect=("faces=10",)),
        resolve(styles=2, regions=("subject",)),
        resolve(styles=2, regions=("background",)),
    ]
    digests = [each.areas.digest for each in variants if each.areas]
    assert len(set(digests)) == len(variants)
    again = resolve(styles=2).areas
    assert again is not None
    assert again.digest == digests[0]
