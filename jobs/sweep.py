"""`ray job submit ... -- python jobs/sweep.py [PRESET] --sweep.space FIELD=KIND(VALUES) ...`: Ray Tune over a stage."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
