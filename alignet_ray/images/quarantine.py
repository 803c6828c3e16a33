"""Unusable images: listed with their reasons, and tolerated up to a share."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from alignet_ray.artifacts.base import to_rows
from alignet_ray.artifacts.embed import QuarantinedImage
from alignet_ray.artifacts.schemas import ERRORS, check
from alignet_ray.errors import UserError


class Quarantine:
    """Collects the unusable images of a set and stops the run as soon as there are too many.

    Args:
        total: images in the set.
        max_bad: share of them that is tolerated.
    """

    def __init__(self, total: int, max_bad: float) -> None:
        self.total = total
        self.max_bad = max_bad
        self.errors: list[QuarantinedImage] = []

    def add(self, errors: Sequence[QuarantinedImage]) -> None:
        """Count more unusable images.

        Raises:
            UserError: too many now, with the five commonest reasons.
        """
        self.errors += errors
        if len(self.errors) <= self.max_bad * self.total:
            return

        # A few reasons explain nearly all failures: the same broken download, the same format.
        counts = Counter(error.reason for error in self.errors).most_common(5)
        reasons = "; ".join(f"{reason} ({count}, e.g. {self._example(reason)})" for reason, count in counts)
        raise UserError(
            f"{len(self.errors)} of {self.total} images cannot be used, --embed.max-bad allows {self.max_bad:.2%}: "
            f"{reasons}. Repair or remove them, or allow more"
        )

    def table(self) -> pa.Table:
        """The ERRORS table, by image_id.

        Raises:
            UserError: no image can be used, whatever share is tolerated.
        """
        if len(self.errors) == self.total:
            raise UserError(f"none of the {self.total} images can be used: {self.errors[0].reason}")

        # Parts are finished in any order; the table's must not depend on it.
        errors = sorted(self.errors, key=lambda error: error.image_id)
        return check(pa.Table.from_pylist(to_rows(errors), schema=ERRORS), ERRORS)

    def _example(self, reason: str) -> str:
        return next(error.path for error in self.errors if error.reason == reason)
