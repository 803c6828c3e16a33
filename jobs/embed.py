"""`ray job submit ... -- python jobs/embed.py [PRESET] [--section.field VALUE ...]`: the stages up to `embed`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["embed", *sys.argv[1:]])
