"""`ray job submit ... -- python jobs/align.py [PRESET] [--section.field VALUE ...]`: the stages up to `align`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["align", *sys.argv[1:]])
