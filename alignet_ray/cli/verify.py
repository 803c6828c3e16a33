"""The command `verify`: checks a triplet file, folder or transform."""

import json
import sys
from pathlib import Path

from alignet_ray.cli.options import VerifyOptions


def verify(options: VerifyOptions) -> None:
    """Print the checks and exit with code 1 if something is wrong."""
    from alignet_ray import checks

    # STAGE/ID means an artifact under the root, unless there is such a file.
    path = options.path
    artifact = Path(options.store.root).expanduser() / path
    if not Path(path).expanduser().exists() and artifact.exists():
        path = str(artifact)

    references = checks.References(
        objects=options.objects,
        reference=options.reference,
        base=options.base,
        order=options.order,
        images=options.images,
        embeddings=options.embeddings,
        transform=options.transform,
        against=options.against,
    )
    kind, findings = checks.examine(path, references)
    if options.json:
        print(json.dumps({"path": path, "kind": kind, "ok": findings.ok, "checks": findings.rows}, indent=1))
    else:
        print(checks.text(path, kind, findings))

    # Scripts read the exit code.
    exit_code = 1
    if findings.ok:
        exit_code = 0
    sys.exit(exit_code)
