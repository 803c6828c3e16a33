"""Typed configuration of a whole run, to and from YAML. Its sections are in `sections.py` and `stages.py`."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from alignet_ray.config import yaml_file
from alignet_ray.config.names import check_local_folder, check_run_name
from alignet_ray.config.sections import (
    Corpus,
    Human,
    Objects,
    RaySection,
    RuntimeOnly,
    Section,
    StoreSection,
    Tracking,
)
from alignet_ray.config.stages import (
    Align,
    Cluster,
    Compute,
    Distill,
    Embed,
    Evaluate,
    Label,
    Network,
    Register,
    Soften,
    Study,
    Sweep,
)
from alignet_ray.errors import UserError, nearest, require_regular

__all__ = [
    "Align",
    "Cluster",
    "Compute",
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
    "Study",
    "Sweep",
    "Tracking",
    "field_name",
]

KINDS = ("float", "int", "str", "bool", "none")
"""Names of types at the end of a validation error's location."""

MAX_SEED = 2**31 - 1
"""Largest seed that all libraries take."""

# A section is named after its stage, and `register` is also a method of abstract base classes.
warnings.filterwarnings("ignore", message='Field name "register" in "Config" shadows')


class Config(Section):
    """A whole run."""

    name: RuntimeOnly[Annotated[str, AfterValidator(check_run_name)]] = "run"
    """Name of the run: `<root>/refs/<name>.json` lists its artifacts."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Random seed, also of the split of objects."""
    state_dir: RuntimeOnly[str | None] = None
    """Local folder for the run lock, logs and embedded tracking. Default: the root, which must be local then."""
    cache_dir: RuntimeOnly[Annotated[str | None, AfterValidator(check_local_folder)]] = None
    """Folder for what can be made again: packed images and feature matrices. On several machines a fast disk of each
    (the same path everywhere) serves best. Default: `cache` in the state folder."""
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
    study: Study = Study()
    store: StoreSection = StoreSection()
    ray: RaySection = RaySection()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _features_are_not_fine_tuned(self) -> "Config":
        if self.embed.from_ and self.align.map == "network" and not self.align.from_:
            raise ValueError("align.map network fine-tunes a network, and embed.from gives features: take affine")
        return self

    @model_validator(mode="after")
    def _one_network_is_fine_tuned(self) -> "Config":
        if len(self.embed.model) > 1 and self.align.map == "network" and not self.align.from_:
            raise ValueError("align.map network fine-tunes one network: give one embed.model, not several")
        return self

    @model_validator(mode="after")
    def _seeds_are_counted_up(self) -> "Config":
        further = {"study.seeds": self.study.seeds - 1, "sweep.repeats": self.sweep.repeats}
        for name, count in further.items():
            if self.seed + count > MAX_SEED:
                raise ValueError(
                    f"with {name} seeds are counted up from seed, which must not be above {MAX_SEED - count}"
                )
        return self

    def to_yaml(self) -> str:
        """The configuration as YAML that `from_yaml` reads back exactly."""
        # In the order of the fields, which is that of the pipeline.
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Config":
        """Read a YAML file.

        Raises:
            UserError: naming the file and the first wrong key or value.
        """
        # Reading a named pipe would wait for a writer for ever.
        require_regular(path)

        # Editors on Windows put a byte order mark before the text, which this encoding skips.
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"--config {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"--config {path} is not UTF-8 text: save it as UTF-8") from error
        try:
            return cls.model_validate(yaml_file.parse(text))
        except ValidationError as error:
            raise UserError(f"--config {path}: {cls._first_problem(error)}") from error
        except UserError as error:
            raise UserError(f"--config {path}: {error}") from error

    @classmethod
    def _first_problem(cls, error: ValidationError) -> str:
        """The first wrong field and what is wrong with it; for an unknown one also the nearest known one."""
        # pydantic's own message has three lines for each problem, and a link.
        first = error.errors()[0]
        name = field_name(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # Fields that do not go together: the message names them, and the input is their whole section.
        if isinstance(first["input"], dict) and first["type"] == "value_error":
            return str(message)
        if first["type"] == "model_type":
            return f"{name}: a section, expected its settings below it, found {first['input']!r}"
        if first["type"] != "extra_forbidden":
            return f"{name}: {message}"
        return f"{name}: no such field{cls._hint(name, str(first['loc'][-1]))}"

    @classmethod
    def _hint(cls, name: str, key: str) -> str:
        """What was probably meant by an unknown field, whose last part was written as `key`."""
        meant = nearest(name, list(cls().flat()))
        if meant is None:
            return ""
        # The names of the command line have dots; in YAML each part stands on a line of its own.
        *sections, field = meant.split(".")
        if "." in key and sections:
            below = " with ".join(f"`{section}:`" for section in sections)
            return f"; in a file write {below} with `{field}:` below it (in Python: {meant.replace('.', '__')}=)"
        return f"; did you mean {meant}?"

    def flat(self) -> dict[str, Any]:
        """The configuration as `{"distill.lr": 3e-5, ...}`; the names are the command-line options."""
        return dict(_flatten(self.model_dump(mode="json"), ""))

    def replace(self, **changes: Any) -> "Config":
        """A validated copy with changes given as `section__field=value` or `field=value`.

        Raises:
            UserError: an unknown field, with the nearest known one, or a value that it cannot take.
        """
        tree = self.model_dump(by_alias=False)
        for key, value in changes.items():
            *sections, field = key.split("__")
            # An unknown section is made here, and refused with its name by the validation.
            branch: Any = tree
            for section in sections:
                branch = branch.setdefault(section, {})
                if not isinstance(branch, dict):
                    raise UserError(f"{key}: {section} has no fields of its own")
            # `from` is a word of Python, so the field's name has a bar behind it; options and files have none.
            if f"{field}_" in branch:
                field = f"{field}_"
            branch[field] = value

        # pydantic's own model_copy would not check the values.
        try:
            return type(self).model_validate(tree)
        except ValidationError as error:
            raise UserError(self._first_problem(error)) from error


def field_name(location: Sequence[int | str]) -> str:
    """`section.field` of a validation error, without the kind of value that pydantic adds where several are allowed."""
    parts = [str(part) for part in location]
    # Such kinds are `float`, `constrained-float` or `literal['auto']`; no field is called like the first.
    # A key may hold the dots of an option's name.
    while len(parts) > 1 and not parts[-1].isdecimal():
        if parts[-1].replace(".", "").isidentifier() and parts[-1] not in KINDS:
            break
        parts.pop()
    return ".".join(parts)


def _flatten(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """All leaves of a nested dictionary, with dotted names."""
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves += _flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value))
    return leaves
