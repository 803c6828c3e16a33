"""The command `doctor`: checks versions, machine, folders and servers."""

import json
import sys

from alignet_ray.cli.options import DoctorOptions


def doctor(options: DoctorOptions) -> None:
    """Print versions, machine, folders and servers, each in order or with its fix; exit code 1 if one needs it."""
    from alignet_ray import surroundings
    from alignet_ray.screen import print_table

    place = surroundings.Place(options.store.root, options.tracking.uri)
    lines = surroundings.examine(place)
    wrong = [line for line in lines if line.fix]

    if options.json:
        print(json.dumps([line._asdict() for line in lines], indent=1))
    else:
        rows = []
        for line in lines:
            verdict = "ok"
            if line.fix:
                verdict = "FIX"
            rows.append({"": verdict, "what": line.name, "found": line.value, "fix": line.fix})

        print_table(rows)
        print()
        if wrong:
            print(f"{len(wrong)} of {len(lines)} lines need something")
        else:
            print("all in order")

    # Scripts read the exit code.
    exit_code = 0
    if wrong:
        exit_code = 1
    sys.exit(exit_code)
