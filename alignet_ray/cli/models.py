"""Commands that use a finished model: demo, export, import."""

import shlex
import shutil
from pathlib import Path

from alignet_ray.cli.options import DemoOptions, ExportOptions, ImportOptions
from alignet_ray.config import Config
from alignet_ray.errors import UserError

MAX_GROUPS = 6
"""Groups of variables left out that `import` names."""


def demo(options: DemoOptions) -> None:
    """Serve the local page."""
    from alignet_ray import runtime
    from alignet_ray.demo import server

    # A page that is looked at makes no root; a remote one has no local folder.
    cache = None
    root = Path(options.store.root).expanduser()
    if root.is_dir():
        cache = root / runtime.CACHE
    server.serve(
        options.model,
        base=options.base,
        images=options.images,
        most=options.most,
        port=options.port,
        cache=cache,
        tracking_uri=registry_address(options.model, options.store.root, options.tracking.uri),
    )


def export(options: ExportOptions) -> None:
    """Write a model in another program's format, and say how that program reads it.

    Raises:
        UserError: the folder is not empty, or as the formats' functions.
    """
    from alignet_ray.models import formats

    # Files of two exports in one folder would look like one model.
    folder = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another")

    root = options.store.root
    address = registry_address(options.model, root or Config().store.root, options.tracking.uri)
    created = not folder.exists()
    try:
        usage = formats.FORMATS[options.to](options.model, folder, root, address)
    except BaseException:
        # Half an export would be taken for a whole one, and would refuse the next try as "not an empty folder".
        _empty(folder, created)
        raise
    for file in sorted(folder.iterdir()):
        print(f"wrote  {file}")
    print(f"use    {usage}")


def import_student(options: ImportOptions) -> None:
    """Write a student's folder from foreign weights, and say what became of them.

    Raises:
        UserError: as `import_weights.import_student`.
    """
    from alignet_ray.models import import_weights

    done = import_weights.import_student(
        options.path,
        options.out,
        model=options.model,
        prefix=options.prefix,
        tau=options.tau,
        preprocessing=options.preprocessing,
    )

    # What was taken from the file, what was not, and what can be done with the folder now.
    head = "no triplet head"
    if done.head is not None:
        head = f"triplet head of {done.head}"
    print(
        f"read   {done.used} variables: {done.architecture} at {done.size} px, {head}, images as {done.preprocessing}'s"
    )
    if done.left_out:
        print(f"left   {len(done.left_out)} variables left out: {_listed(done.left_out_groups())}")
    print(f"wrote  {done.folder}")
    print(f"use    alignet_ray.load({str(done.folder)!r})")
    print(f"       alignet-ray export {shlex.quote(str(done.folder))} --to timm EXPORTED    # or onnx, hub")


def _listed(groups: dict[str, int]) -> str:
    """Groups of variables with their numbers, the largest first."""
    texts = [f"{name} ({count})" for name, count in list(groups.items())[:MAX_GROUPS]]
    if len(groups) > MAX_GROUPS:
        texts.append(f"{len(groups) - MAX_GROUPS} more groups")
    return ", ".join(texts)


def _empty(folder: Path, created: bool) -> None:
    """Delete what an export that failed has written: all that is in the folder, which was empty, or not there."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if created:
        folder.rmdir()


def registry_address(model: str, root: str, uri: str | None) -> str | None:
    """Where a registered model is looked up; None for models that are no `models:/` names.

    Raises:
        UserError: there is no registry.
    """
    if not model.startswith("models:/"):
        return None

    # Imported late: folders and backbones are used without the tracking settings.
    from alignet_ray import tracking

    return tracking.registry_uri(root, uri)
