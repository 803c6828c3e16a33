"""The one typed configuration tree of a whole run, YAML both ways; its sections: `sections.py` and `stages.py`."""

import difflib
import warnings
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from alignet_ray.config.sections import Corpus, Human, Objects, RaySection, Section, StoreSection, Tracking
from alignet_ray.config.stages import Align, Cluster, Distill, Embed, Evaluate, Label, Network, Register, Soften, Sweep
from alignet_ray.errors import UserError

__all__ = [
    "Align",
    "Cluster",
    "Config",
    "Corpus",
    "Distill",
    "Embed",
    "Evaluate",
    "Human",
    "Label",
    "Network",
    "Objects",
    "RaySection",
    "Register",
    "Section",
    "Soften",
    "StoreSection",
    "Sweep",
    "Tracking",
]

warnings.filterwarnings(
    "ignore", message='Field name "register" in "Config" shadows'
)  # the stage's name is the section's


class Config(Section):
    """A whole run."""

    name: str = "run"
    """The run's name: `<root>/refs/<name>` points at its artifacts."""
    seed: int = 0
    """Seed of everything random, the split of objects included."""
    state_dir: str | None = None
    """Local folder for the run lock, logs and embedded tracking; left out: the root (it must be local then)."""
    corpus: Corpus = Corpus()
    objects: Objects = Objects()
    human: Human = Human()
    embed: Embed = Embed()
    soften: Soften = Soften()
    align: Align = Align()
    cluster: Cluster = Cluster()
    label: Label = Label()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    register: Register = Register()
    sweep: Sweep = Sweep()
    store: StoreSection = StoreSection()
    ray: RaySection = RaySection()
    tracking: Tracking = Tracking()

    def to_yaml(self) -> str:
        """The tree as YAML that `from_yaml` reloads exactly."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Config":
        """Read a YAML file.

        Raises:
            UserError: naming the file and the first wrong key or value.
        """
        try:
            tree = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise UserError(f"--config {path}: {error.strerror or error}") from error
        except yaml.YAMLError as error:
            raise UserError(f"--config {path} is not YAML: {str(error).splitlines()[0]}") from error
        try:
            return cls.model_validate(tree or {})
        except ValidationError as error:
            first = error.errors()[0]
            name, problem = ".".join(map(str, first["loc"])), first["msg"]
            if first["type"] == "extra_forbidden":
                near = difflib.get_close_matches(name, cls().flat(), n=1)
                problem = "no such field" + (f"; did you mean {near[0]}?" if near else "")
            raise UserError(f"--config {path}: {name}: {problem}") from error

    def flat(self) -> dict[str, Any]:
        """The tree as `{"distill.lr": 3e-5, ...}`: the names are the flags."""
        return dict(_flatten(self.model_dump(mode="json"), ""))

    def replace(self, **changes: Any) -> "Config":
        """A copy with `section__field=value` (or `field=value`) changes, validated."""
        tree = self.model_dump(by_alias=False)
        for key, value in changes.items():
            *sections, field = key.split("__")
            branch = tree
            for section in sections:
                branch = branch[section]
            branch[field] = value
        return type(self).model_validate(tree)


def _flatten(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
