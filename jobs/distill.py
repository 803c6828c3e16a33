"""`ray job submit ... -- python jobs/distill.py [PRESET] [--section.field VALUE ...]`: the stages up to `distill`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
