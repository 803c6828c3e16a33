"""`ray job submit ... -- python jobs/register.py [PRESET] [--section.field VALUE ...]`: the stages up to `register`."""

import sys

from alignet_ray.cli import main

if __name__ == "__main__":
    main(["register", *sys.argv[1:]])
