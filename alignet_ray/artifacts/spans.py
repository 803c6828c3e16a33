"""Where an image lies in a tar file; apart from `schemas`, so that a student reads pictures without pyarrow."""

from typing import NamedTuple

NO_OFFSET = -1
"""Offset of an image that does not lie in a tar file."""


class Span(NamedTuple):
    """Offset of an image's content in its tar file, and bytes."""

    offset: int
    size: int
