"""`ray job submit ... -- python jobs/pipeline.py [PRESET] [--section.field VALUE ...]`: all stages."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
