"""Generated worlds: `synthetic:NAME` in a configuration becomes the paths of its images, answers and network."""

from dataclasses import asdict
from pathlib import Path

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen
from alignet_ray.store import JsonObject, digest


def name_and_folder(cfg: Config, state: Path) -> tuple[str, Path] | None:
    """Name and folder of the generated world that a config asks for; None if it does not ask for one.

    Raises:
        UserError: no world has that name.
    """
    if not (cfg.corpus.path or "").startswith("synthetic:"):
        return None
    from alignet_ray.synthetic import world

    name = str(cfg.corpus.path).partition(":")[2]
    if name not in world.WORLDS:
        raise UserError(f"no generated world named {name!r}: there are {', '.join(world.WORLDS)}")
    # The folder's name hashes all settings of the world: after a change another world is drawn beside the old one.
    version = digest([world.VERSION, asdict(world.WORLDS[name])], 8)
    return name, state / "worlds" / f"{name}-{version}"


def resolve(cfg: Config, state: Path, screen: Screen) -> Config:
    """Replace `synthetic:NAME` by the paths of that generated world, which is made here if it does not exist yet."""
    named_folder = name_and_folder(cfg, state)
    if named_folder is None:
        return cfg
    from alignet_ray.synthetic import world

    name, folder = named_folder
    if not world.is_materialised(folder):
        screen.heading("world", f"drawing {name!r}")
        if world.WORLDS[name].trains_base:
            with screen.progress(world.WORLDS[name].base.steps, "steps of its base network's training") as bar:
                world.materialise(name, folder, lambda done, total: bar.add(done - bar.done))
        else:
            world.materialise(name, folder)

    # What the user gives beside the world's name replaces the world's own.
    paths = world.paths(name, folder)
    changes: JsonObject = {
        "corpus__path": paths["corpus"],
        "objects__table": cfg.objects.table or paths["table"],
        "objects__concepts": cfg.objects.concepts or paths["concepts"],
        "human__triplets": cfg.human.triplets or paths["triplets"],
    }
    side = world.WORLDS[name].size
    if cfg.embed.model == (cfg.corpus.path,):
        changes |= {"embed__model": (paths["model"],), "embed__size": cfg.embed.size or side}
    if cfg.distill.model == cfg.corpus.path:
        changes |= {"distill__model": paths["model"], "distill__size": cfg.distill.size or side}
    return cfg.replace(**changes)
