"""`ray job submit ... -- python jobs/soften.py [PRESET] [--section.field VALUE ...]`: the stages up to `soften`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["soften", *sys.argv[1:]])
