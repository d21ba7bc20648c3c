"""The last rung: a picture and its optimizer in the memory of the host, evaluated on the device."""

from dataclasses import dataclass, fields

from torch import Tensor

from styler.objective.terms import Objective


@dataclass(frozen=True, slots=True, eq=False)
class HostObjective(Objective):
    """An objective of an image in the memory of the host, whose features are computed on the device."""

    @classmethod
    def of(cls, objective: Objective) -> "HostObjective":
        """Make one of an objective on the device."""
        return cls(**{field.name: getattr(objective, field.name) for field in fields(objective)})

    def gradient(self, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms and the gradient of an image (1, 3, H, W), all where the image is; waits for the device."""
        terms, gradient = Objective.gradient(self, image.to(self.features.device))
        return {name: term.to(image.device) for name, term in terms.items()}, gradient.to(image.device)
