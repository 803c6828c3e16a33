"""Where an image lies in a tar file is known without pyarrow, which a machine that only uses a student may not have."""

import subprocess
import sys


def test_images_are_told_from_other_files_without_pyarrow() -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
from alignet_ray.artifacts.spans import NO_OFFSET, Span
from alignet_ray.images.file_kinds import Member, is_image
assert Member("a.jpg", "", 1).offset == NO_OFFSET
assert Span(512, 3).size == 3
assert is_image("a.jpg", bytes)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
