"""`ray job submit ... -- python jobs/cluster.py [PRESET] [--section.field VALUE ...]`: the stages up to `cluster`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["cluster", *sys.argv[1:]])
