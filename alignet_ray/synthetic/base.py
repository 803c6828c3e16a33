"""Weights of the worlds' base networks: of `smoke` they come with the package, of others they are trained.

`python -m alignet_ray.synthetic.base` trains the ones that come with the package again. The last bits of a training
differ between processors, so that weights which come along also make the world the same on every machine.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from alignet_ray.data.files import writing_tensors
from alignet_ray.store import digest
from alignet_ray.synthetic.pretrain import VERSION, BaseRecipe, train_base

FOLDER = Path(__file__).parent
"""Where the weights lie that come with the package."""


def _ignore_step(step: int) -> None:
    """The default of `on_step`."""


def file_of(recipe: BaseRecipe, size: int, seed: int) -> Path:
    """The file of the package that holds the weights of this training, if the package has it."""
    # Named by all that the weights depend on: after a change of the recipe nobody gets weights of the old one.
    return FOLDER / f"base-{digest([VERSION, asdict(recipe), size, seed], 8)}.safetensors"


def comes_along(recipe: BaseRecipe, size: int, seed: int) -> bool:
    """Whether the package has the weights, so that they need not be trained."""
    return file_of(recipe, size, seed).is_file()


def write(file: Path, recipe: BaseRecipe, size: int, seed: int, on_step: Callable[[int], None] = _ignore_step) -> None:
    """Write the weights of a base network: those of the package, or else trained ones.

    Args:
        file: where to.
        recipe: architecture and training.
        size: side of the images in pixels.
        seed: of everything random.
        on_step: called with the number of finished updates, where the network is trained.
    """
    if comes_along(recipe, size, seed):
        shutil.copyfile(file_of(recipe, size, seed), file)
    else:
        train(file, recipe, size, seed, on_step)


def train(file: Path, recipe: BaseRecipe, size: int, seed: int, on_step: Callable[[int], None] = _ignore_step) -> None:
    """Train a base network, whatever the package has, and write its weights. Arguments as those of `write`."""
    from safetensors.torch import save_file

    weights = train_base(recipe, size, seed, on_step)
    with writing_tensors(file):
        save_file(weights, file)


def main() -> None:
    """Train the base of the world `smoke`, and put it into the package in place of the one that is there."""
    from alignet_ray.synthetic.world import WORLDS

    world = WORLDS["smoke"]
    target = file_of(world.base, world.size, world.seed)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        made = Path(folder) / target.name
        train(made, world.base, world.size, world.seed)
        for old in FOLDER.glob("base-*.safetensors"):
            old.unlink()
        made.rename(target)
    print(target)


if __name__ == "__main__":
    main()
