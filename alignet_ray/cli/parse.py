"""Reads a command's options with tyro; whatever it does not understand becomes a one-line UserError."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro
from pydantic import BaseModel, ValidationError
from tyro import _errors as tyro_errors

from alignet_ray.cli.main import unknown
from alignet_ray.cli.options import Options, RunOptions
from alignet_ray.config import Config, field_name
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError, require_named

T = TypeVar("T", bound=Options)

ESSENTIAL = (
    "corpus.path",
    "objects.table",
    "human.triplets",
    "human.comparisons",
    "embed.model",
    "align.map",
    "label.train",
    "distill.model",
    "distill.steps",
    "name",
    "store.root",
)
"""Settings that `--help` shows; `--help-all` shows all."""


def read(kind: type[T], command: str, args: Sequence[str]) -> T:
    """The options of a command.

    Raises:
        UserError: an unknown option or preset (with the nearest known one), or a value of the wrong kind.
        SystemExit: help was asked for and has been printed.
    """
    args = list(args)
    default: Any = tyro.MISSING_NONPROP
    options_class: type = kind

    # A preset or file is read before tyro runs, which shows its values as the defaults.
    if issubclass(kind, RunOptions):
        default = kind(settings=starting_point(command, args))
        if "--help-all" in args:
            args = ["--help"]
        elif "--help" in args or "-h" in args:
            options_class = _short(kind, default.settings)
            default = tyro.MISSING_NONPROP
            args = ["--help"]

    # tyro would print a box and exit; an exception from its hook becomes the usual single line.
    def refuse(event: tyro_errors.ParseErrorEvent) -> None:
        raise UserError(describe_mistake(event, option_names(kind), args)) from None

    with tyro_errors.on_parse_error(refuse):
        try:
            chosen: T = tyro.cli(
                options_class,
                default=default,
                args=args,
                prog=f"alignet-ray {command}",
                description=inspect.cleandoc(kind.__doc__ or ""),
            )
        except ValidationError as error:  # of a field that stands in no section
            raise UserError(_refused_value(error)) from error
    if isinstance(chosen, RunOptions):
        _require_preset_first(command, chosen.preset, args)

    _require_named_paths(chosen, args)

    # Some commands need to know what was typed, and not only the values, which may equal the defaults.
    given = tuple(arg.partition("=")[0].replace("_", "-") for arg in args if arg.startswith("--"))
    return dataclasses.replace(chosen, given=given)


def _require_named_paths(chosen: Options, args: Sequence[str]) -> None:
    """Refuse what a `Path` turns into another place: nothing into the working directory, a URL into a local folder.

    Raises:
        UserError: naming the option.
    """
    # Such as the empty text of a shell's variable that is not set.
    has_empty = any(arg == "" or (arg.startswith("--") and arg.endswith("=")) for arg in args)
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        if has_empty and value == Path():
            require_named("", field.name.replace("_", "-"))
        if isinstance(value, Path) and re.match(r"[a-z][a-z0-9+.-]+:/", str(value)) and not value.exists():
            address = str(value).replace(":/", "://", 1)
            raise UserError(f"{field.name.replace('_', '-')} {address} is a URL: give a folder or file of this machine")


def read_config(command: str, args: Sequence[str]) -> Config:
    """The configuration that `[PRESET] [--config FILE] [--section.field VALUE ...]` describes.

    Raises:
        UserError: as `read`.
    """
    return read(RunOptions, command, args).settings


def starting_point(command: str, args: list[str]) -> Config:
    """The configuration that the settings on the command line change: defaults, a preset, or a YAML file.

    It has to be known before tyro runs, which shows it as the defaults.

    Raises:
        UserError: an unknown preset, or a file that cannot be read.
    """
    for position, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag == "--config" and equals:
            return Config.from_yaml(value)
        if flag == "--config":
            if position + 1 == len(args):
                raise UserError("--config needs a file: write --config run.yaml")
            return Config.from_yaml(args[position + 1])

    if not args or args[0].startswith("-"):
        return Config()
    if args[0] in PRESETS:
        return PRESETS[args[0]]()
    if command == "show":
        # It may be the name of a run or an artifact.
        return Config()
    raise UserError(unknown("preset", args[0], PRESETS))


def _require_preset_first(command: str, preset: str | None, args: Sequence[str]) -> None:
    """Refuse a preset that stands behind options: they would change the defaults, and not the preset.

    Raises:
        UserError: saying where it belongs; or that it is no preset, such as the value of a switch, which takes none.
    """
    if preset is None:
        return
    if args[0] == preset:
        if preset in PRESETS and any(arg.partition("=")[0] == "--config" for arg in args):
            raise UserError(f"{preset} and --config: give a preset or a file to start from, not both")
        return
    if preset in PRESETS:
        raise UserError(f"the preset comes first: alignet-ray {command} {preset} ...")
    # For `show` it is the name of a run or an artifact, which may stand anywhere.
    if command != "show":
        raise UserError(_unexpected(preset, f"alignet-ray {command}"))


def _unexpected(argument: str, program: str) -> str:
    """What to say of an argument that belongs to no option."""
    if argument.lower() in ("true", "false"):
        return f"unexpected argument {argument!r}: switches take no value, --section.no-field turns one off"

    # The `no-` form of a setting that is no switch, such as one that is no switch any more.
    place, _, field = argument.rpartition("no-")
    if place.startswith("--") and place.endswith((".", "--")) and field:
        return f"unexpected argument {argument!r}: {place}{field} takes a value, which `{program} --help` names"
    return f"unexpected argument {argument!r}: `{program} --help` explains"


def _short(kind: type[RunOptions], settings: Config) -> type:
    """An options class for the short help: the essential settings instead of all."""
    fields: list[Any] = [("settings", Annotated[Config, tyro.conf.Suppress], settings)]
    for name in ESSENTIAL:
        section, _, field = name.rpartition(".")
        owner: Any = Config
        if section:
            owner = Config.model_fields[section].annotation
        # The description in the config is the help text: it stands once.
        info = owner.model_fields[field]
        marker = tyro.conf.arg(name=name, help=info.description)
        fields.append((name.replace(".", "_"), Annotated[info.annotation, marker], _value(settings, name)))
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)


def _value(settings: Config, name: str) -> Any:
    """The value of `section.field`."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def option_names(kind: type) -> list[str]:
    """All long options of an options class, with the `no-` forms of switches, for did-you-mean."""
    dotted: list[str] = []
    for field in dataclasses.fields(kind):
        # What was typed is no option itself.
        if field.name == "given":
            continue
        annotation = field.type
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]

        # Only the configuration's own sections stand without a name before theirs.
        if annotation is Config:
            dotted += Config().flat()
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            dotted += [f"{field.name}.{name}" for name in annotation.model_fields]
        elif isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            dotted += [f"{field.name}.{inner.name}" for inner in dataclasses.fields(annotation)]
        else:
            dotted.append(field.name)

    # Which fields are switches is not looked up: a form too many does no harm among the suggestions.
    flags: list[str] = []
    for name in dotted:
        section, dot, leaf = name.rpartition(".")
        flags.append(f"--{section}{dot}{leaf}".replace("_", "-"))
        flags.append(f"--{section}{dot}no-{leaf}".replace("_", "-"))
    return flags


def describe_mistake(event: tyro_errors.ParseErrorEvent, known: list[str], args: Sequence[str]) -> str:
    """What the parser refuses, in one line.

    Args:
        event: the parser's error object.
        known: all options of the command.
        args: the command line.
    """
    # A wrong option is named first, as it is often the reason for whatever else is missing.
    for arg in args:
        flag = arg.partition("=")[0]
        if flag.startswith("--") and flag.replace("_", "-") not in known:
            placed = _negation_in_place(flag)
            if placed in known:
                return f"unknown option {flag!r}: did you mean {placed!r}?"
            meant = _option_with_value(flag)
            # `--align.network` has options below it, and is a choice of `--align.map` as well.
            if meant and not any(option.startswith(f"{flag}.") for option in known):
                return f"unknown option {flag!r}: did you mean {meant!r}?"
            return unknown("option", flag, known)

    explained = f"`{event.prog} --help` explains"
    if isinstance(event, tyro_errors.UnrecognizedArgs):
        return _unexpected(event.tokens[0], event.prog)
    if isinstance(event, tyro_errors.MissingArgs):
        missing = ", ".join(context.arg.display_name() for context in event.missing_arguments)
        return f"{event.prog} needs {missing}: {explained}"
    if isinstance(event, tyro_errors.BadValue):
        return _describe_bad_value(event, explained)
    if isinstance(event, tyro_errors.InvalidChoice):
        # An optional setting can be None, but nobody types that.
        choices = " or ".join(sorted(set(event.choices) - {"None"}))
        return f"{event.argument.display_name()} {event.value}: choose {choices}"
    if isinstance(event, tyro_errors.InstantiationFailure):
        return _describe_value(event, args)
    return f"{event.prog}: the options cannot be read: {explained}"


def _option_with_value(flag: str) -> str | None:
    """`--section.field value` for a choice that was written as if it were a field: `--distill.bfloat16`."""
    section, _, choice = flag.removeprefix("--").partition(".")
    if section not in Config.model_fields:
        return None
    kind = Config.model_fields[section].annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return None
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal and choice in get_args(field.annotation):
            return f"--{section}.{name.replace('_', '-')} {choice}"
    return None


def _describe_bad_value(event: tyro_errors.BadValue, explained: str) -> str:
    """An argument without its value, or a switch with one."""
    name = event.argument.display_name()
    if event.argument.is_positional():
        return f"{event.prog} needs {name}: {explained}"
    if event.reason == "fixed":
        return f"{name} takes no value"
    return f"{name} needs a value"


def _negation_in_place(flag: str) -> str:
    """`--no-section.field` as tyro wants it, `--section.no-field`; any other flag as it is."""
    section, dot, field = flag.removeprefix("--no-").rpartition(".")
    if flag.startswith("--no-") and dot:
        return f"--{section}.no-{field}"
    return flag


def _describe_value(event: tyro_errors.InstantiationFailure, args: Sequence[str]) -> str:
    """A value of the wrong type, or one that a section's own validation refuses."""
    if event.argument is not None:
        # `{None}|` in tyro's text means that the setting has no value by default, which is no help here.
        flag = event.argument.display_name()
        expected = str(event.argument.lowered.metavar).replace("{None}|", "")
        return f"{flag} {_wrong_value(flag, args, event.argument.field.type)}: expected {expected}"

    # tyro reports only the text of pydantic's error; the error itself is what tyro's exception was raised from.
    raised = sys.exc_info()[1]
    cause = None
    if raised is not None:
        cause = raised.__context__
    if not isinstance(cause, ValidationError):
        return event.message.splitlines()[0]
    return _refused_value(cause, str(getattr(raised, "arg", "")).removeprefix("settings").strip("."))


def _refused_value(error: ValidationError, section: str = "") -> str:
    """The option and value that a section's own validation refuses, and why."""
    # One mistake is told at a time: the later ones often follow from the first.
    first = error.errors()[0]
    flag = "--" + ".".join(filter(None, (section, field_name(first["loc"])))).replace("_", "-")
    message = first["msg"].removeprefix("Value error, ")
    # Fields that do not go together: the message names them, and the input is the whole section.
    if isinstance(first["input"], dict):
        return message
    # A value may hold a line break, and a message is one line.
    return " ".join(f"{flag} {first['input']}: {message[0].lower()}{message[1:]}".split())


def _wrong_value(flag: str, args: Sequence[str], kind: Any) -> str:
    """The value behind an option that is not of its kind; of a list the first such one."""
    values = _given_values(flag, args)
    for number in (int, float):
        if number not in _plain_types(kind):
            continue
        for value in values:
            try:
                number(value)
            except ValueError:
                return value
    return " ".join(values[:1])


def _plain_types(kind: Any) -> set[Any]:
    """The types that an annotation is made of; limits of values are looked through."""
    types = {kind}
    for inner in get_args(kind):
        types |= _plain_types(inner)
    return types


def _given_values(flag: str, args: Sequence[str]) -> list[str]:
    """What stands behind an option on the command line, up to the next option."""
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            return [value]
        return list(takewhile(lambda word: not word.startswith("--"), args[position + 1 :]))
    return []
