"""The command `data`: what the field's data sets are, and fetching those whose terms allow it."""

import json
import sys
import textwrap
from collections.abc import Sequence

from alignet_ray.cli.main import unknown
from alignet_ray.cli.options import DataOptions
from alignet_ray.data.catalogue import DataSet, data_sets
from alignet_ray.data.fetch import Fetched, fetch, terms_text
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, TableRow, print_table

WIDTH = 100
"""Columns of running text."""

WHAT = ("name", "what", "size", "plugs in as")
HOW = ("name", "terms", "where", "cite", "--fetch")
"""Columns of the two tables that a terminal gets instead of a wide one."""


def data(options: DataOptions) -> None:
    """Print the table of data sets, or all about one of them, or fetch it.

    Raises:
        UserError: no data set has this name; options that do not go together; or as `fetch`.
    """
    # An option that would do nothing is refused, as the user expects something of it.
    if options.accept_terms and options.fetch is None:
        raise UserError("--accept-terms goes with --fetch FOLDER")
    if options.json and options.fetch is not None:
        raise UserError("--json and --fetch do not go together: print the entry, or fetch it")

    if options.name is None:
        if options.fetch is not None:
            raise UserError("--fetch needs the name of a data set: `alignet-ray data` lists them")
        _print_all(options.json)
        return

    entries = data_sets()
    if options.name not in entries:
        raise UserError(unknown("data set", options.name, entries))
    entry = entries[options.name]

    if options.fetch is not None:
        _fetch(entry, options)
    elif options.json:
        print(json.dumps(entry.at().model_dump(mode="json"), indent=1, ensure_ascii=False))
    else:
        print(_description(entry.at()))


def _print_all(as_json: bool) -> None:
    """The table of all data sets."""
    entries = data_sets().values()
    if as_json:
        # With the commands filled in, as `data NAME --json` prints them.
        listed = [entry.at().model_dump(mode="json") for entry in entries]
        print(json.dumps(listed, indent=1, ensure_ascii=False))
        return

    rows = [_row(entry) for entry in entries]
    # Eight columns are wider than most terminals, which would break names and options in the middle.
    if sys.stdout.isatty():
        for heads in (WHAT, HOW):
            print_table([_columns(row, heads) for row in rows])
            print()
    else:
        print_table(rows)
        print()
    print("alignet-ray data NAME: its terms, its citation, how it is fetched, and the command that uses it")


def _row(entry: DataSet) -> TableRow:
    """A data set as a row of the table."""
    fetched = "no"
    if entry.can_be_fetched:
        fetched = "yes"
    return {
        "name": entry.name,
        "what": entry.title,
        "size": entry.size,
        "terms": entry.licence,
        # A terminal opens what has https:// before it; in a table its width is dear.
        "where": entry.page.removeprefix("https://"),
        "cite": entry.cite,
        "plugs in as": f"--{entry.plugs_in_as[0]}",
        "--fetch": fetched,
    }


def _columns(row: TableRow, heads: Sequence[str]) -> TableRow:
    """Some cells of a row."""
    return {head: row[head] for head in heads}


def _description(entry: DataSet) -> str:
    """Everything about one data set."""
    lines = [terms_text(entry)]
    lines.append(f"size      {entry.size}")
    lines.append("plugs in  " + " ".join(f"--{option}" for option in entry.plugs_in_as))
    lines += ["", "fetch it", *_how_to_fetch(entry), *_how_to_use(entry)]
    if entry.notes:
        lines += ["", "notes"]
    for note in entry.notes:
        lines += textwrap.wrap(note, WIDTH, initial_indent="  * ", subsequent_indent="    ")
    return "\n".join(lines)


def _how_to_fetch(entry: DataSet) -> list[str]:
    """The command that fetches it, with what is known of its files; or why there is none."""
    if not entry.can_be_fetched:
        return [f"  by hand, as {entry.obstacle}: see {entry.page}"]
    lines = [f"  alignet-ray data {entry.name} --fetch DATA"]
    for file in entry.files:
        lines.append(f"    {file.name}  {file.url}")
        # Whoever fetches it should know before how sure its bytes are.
        if file.sha256 is None:
            lines.append("      no checksum is published")
        else:
            lines.append(f"      sha256 {file.sha256}")
        if file.checksum_from:
            lines.append(f"      as stated by {file.checksum_from}")
    return lines


def _how_to_use(entry: DataSet) -> list[str]:
    """The commands that follow once it is there."""
    lines: list[str] = []
    if entry.prepare:
        lines += ["", "then"]
        lines += [f"  {command}" for command in entry.prepare]
    return [*lines, "", "use it", f"  {entry.run}"]


def _fetch(entry: DataSet, options: DataOptions) -> None:
    """Fetch a data set, and say what comes next."""
    assert options.fetch is not None
    parent = options.fetch.expanduser()

    def accept() -> bool:
        # Shown to scripts as well: their logs then hold what was accepted.
        print(terms_text(entry))
        return options.accept_terms or _agrees(entry.name)

    files = fetch(entry, parent, Screen(), accept)
    for file in files:
        print(_outcome(file))
    # With the real folder in the commands, so that they can be copied.
    print("\n".join(_how_to_use(entry.at(parent))))


def _agrees(name: str) -> bool:
    """Whether the user accepts the terms that were just shown.

    Raises:
        UserError: there is nobody to ask.
    """
    # A script that is asked would wait for ever.
    if not sys.stdin.isatty():
        raise UserError(f"the terms of {name} must be accepted, and this is not a terminal: add --accept-terms")
    return input("accept these terms? [y/N] ").strip().lower() in ("y", "yes")


def _outcome(file: Fetched) -> str:
    """One line about a file."""
    verdict = "checked"
    if not file.is_published:
        verdict = "no checksum is published; this one is kept beside it"
    state = "there"
    if file.is_new:
        state = "wrote"
    return f"{state}  {file.path}  sha256 {file.checksum[:16]}... ({verdict})"
