"""`ray job submit ... -- python jobs/label.py [PRESET] [--section.field VALUE ...]`: the stages up to `label`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["label", *sys.argv[1:]])
