"""`ray job submit ... -- python jobs/evaluate.py [PRESET] [--section.field VALUE ...]`: the stages up to `evaluate`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
