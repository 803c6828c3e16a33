"""Pretends a file system that ignores case, as macOS and Windows have: files open under names that no folder lists."""

import os
from collections.abc import Mapping
from typing import Any

import pytest


def lists_as(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, str]) -> None:
    """From here on folders list files under other names than those by which they are opened.

    Args:
        monkeypatch: ends the pretence with the test.
        names: name by which a file is opened -> name in listings.
    """
    real = os.listdir

    def listed(folder: Any = ".") -> list[str]:
        return [names.get(name, name) for name in real(folder)]

    monkeypatch.setattr(os, "listdir", listed)
