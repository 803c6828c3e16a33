"""`python -m alignet_ray`: the command line, where the script `alignet-ray` is not on the path."""

import os
import sys
from pathlib import Path

# `python -m` puts the current folder first on the import path: a script in it that is called timm.py would be imported
# in place of the library. Only who works in a clone that is not installed needs it there.
folder = os.getcwd()
if sys.path[:1] == [folder] and not Path(__file__).is_relative_to(folder):
    del sys.path[0]

from alignet_ray.cli.main import main  # noqa: E402 (after the import path is as it has to be)

if __name__ == "__main__":
    main()
