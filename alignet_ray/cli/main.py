"""Entry point of `alignet-ray`: finds the command, and turns every error into one line and an exit code.

Importing this module is cheap, so that `--help` answers at once: a command's options and its code are imported when it
is called.
"""

import errno
import importlib
import locale
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from alignet_ray import invocation
from alignet_ray.errors import RemoteError, UserError, first_line, nearest


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        group: heading of the overview that it stands under.
        summary: what it does, in one line.
        options: name of its options class in `cli/options.py`.
        function: `module:function` in this package; it gets the options, and for a stage also the stage's name.
    """

    group: str
    summary: str
    options: str
    function: str


COMMANDS = {
    "run": Command("whole runs", "run the whole pipeline; finished steps are reused", "RunOptions", "runs:run"),
    "plan": Command(
        "whole runs", "what `run` would do and why; --on.gpus N: time and cost", "PlanOptions", "runs:plan"
    ),
    "sweep": Command("whole runs", "tune align or distill, then run the best setting", "RunOptions", "runs:sweep"),
    "study": Command("whole runs", "the same settings on every fold of the objects", "RunOptions", "runs:study"),
    "data": Command(
        "human data", "the field's data sets: terms, citation, how they plug in; --fetch", "DataOptions", "data:data"
    ),
    "ask": Command("human data", "ask people in a browser which pictures are alike", "AskOptions", "ask:ask"),
    "embed": Command("stages", "images -> embeddings of the teacher network", "EmbedOptions", "runs:stage"),
    "soften": Command("stages", "human responses -> a model of human choices", "RunOptions", "runs:stage"),
    "align": Command("stages", "teacher network -> teacher aligned with human choices", "RunOptions", "runs:stage"),
    "cluster": Command("stages", "embeddings -> clusters of images", "RunOptions", "runs:stage"),
    "label": Command(
        "stages", "clusters -> triplets of images with the teacher's choices", "LabelOptions", "runs:stage"
    ),
    "distill": Command("stages", "triplets -> trained student", "RunOptions", "runs:stage"),
    "evaluate": Command("stages", "student -> scores and report", "RunOptions", "runs:stage"),
    "register": Command("stages", "student -> new version in the model registry", "RunOptions", "runs:stage"),
    "ls": Command("results", "list runs and artifacts; --models: the model registry", "ListOptions", "results:ls"),
    "show": Command("results", "print a preset, run, artifact or registered model", "ShowOptions", "results:show"),
    "compare": Command("results", "scores of several runs side by side", "CompareOptions", "results:compare"),
    "verify": Command("results", "check a triplet file, folder or transform", "VerifyOptions", "verify:verify"),
    "doctor": Command(
        "results", "look at this machine and its settings; for bug reports", "DoctorOptions", "doctor:doctor"
    ),
    "rollback": Command("results", "restore the previous champion of a model", "RollbackOptions", "results:rollback"),
    "rm": Command("results", "delete artifacts, or the name of a run", "RemoveOptions", "results:rm"),
    "gc": Command("results", "delete artifacts that no run uses, and the cache", "CollectOptions", "results:gc"),
    "demo": Command("use a model", "local web page: base against aligned student", "DemoOptions", "models:demo"),
    "export": Command(
        "use a model", "write a model for timm, ONNX, thingsvision or a hub", "ExportOptions", "models:export"
    ),
    "import": Command(
        "use a model", "make a student of AligNet's or big_vision's weights", "ImportOptions", "models:import_student"
    ),
    "bench": Command("measure", "time this package against plain loops", "BenchOptions", "results:bench"),
}

RESUMED = ("whole runs", "stages")
"""Groups of commands that go on where they were stopped."""

SHORT_LIST = 12
"""Number of names up to which an error message lists them all."""

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of the file system that a path given by the user causes."""

STORE_ERRORS = re.compile(r"\bAWS Error\b|google::cloud::|\bAzure error\b")
"""How the clients in Arrow mark the errors of object stores."""

OVERVIEW = """alignet-ray: vision models aligned with human similarity judgements

usage: alignet-ray COMMAND [OPTIONS]
{commands}

First try: `alignet-ray run smoke` generates its own images; minutes, no GPU.
`alignet-ray run --help` lists the presets and the settings that matter most,
`alignet-ray COMMAND --help` the options of a command. --version: the version.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command. Exit codes: 0 success, 2 a mistake of the user, 1 an internal error, 130 stopped."""
    # Only the real command line may start Python again; a caller's list of arguments is not in sys.argv.
    if argv is None:
        _require_utf8()
        argv = sys.argv[1:]

    _replace_closed_streams()
    args = list(argv)
    debug = "--debug" in args
    try:
        with invocation.called_as("alignet-ray", *args):
            dispatch(args)
    except KeyboardInterrupt:
        print(f"\n{stopped_message(args)}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has left; without this, Python complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(report_error(error, debug))


def stopped_message(args: Sequence[str]) -> str:
    """What is left of a command that was stopped; only those that make artifacts go on later."""
    name = next((arg for arg in args if arg != "--debug"), "")
    if name in COMMANDS and COMMANDS[name].group in RESUMED:
        return "stopped: finished steps are kept; the same command goes on from there"
    return "stopped"


def _require_utf8() -> None:
    """Start Python again in its UTF-8 mode where the locale is another (cron, slim containers).

    Texts, names of files, the terminal and all processes of a run then agree.
    """
    if sys.flags.utf8_mode or locale.getpreferredencoding(False).upper().replace("-", "") == "UTF8":
        return
    # The variable is for the processes of Ray, which do not inherit Python's own options.
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _replace_closed_streams() -> None:
    """Give a command that was started with a closed output (`>&-`, some services) one that swallows everything."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def report_error(error: Exception, debug: bool) -> int:
    """Print an error as one line; returns the exit code."""
    message = user_message(error)
    if message:
        print(f"alignet-ray: {message}", file=sys.stderr)
        return 2

    # With --debug the traceback has been printed already.
    if not debug:
        # Ray puts the remote traceback before the message, which is the last line.
        lines = str(error).strip().splitlines() or [""]
        print(
            f"alignet-ray: internal error: {type(error).__name__}: {lines[-1][:500]}\n"
            "run it again with --debug for the traceback",
            file=sys.stderr,
        )
    return 1


def user_message(error: BaseException) -> str | None:
    """The message of the UserError (or full disk) inside an error, which workers wrap several times; None without."""
    for inner in _causes(error):
        # Ray's copy of a UserError has the worker's traceback in its text; the plain one is deeper inside.
        if isinstance(inner, UserError) and "\n" not in str(inner).strip():
            return str(inner)
        if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EDQUOT):
            place = ""
            if inner.filename:
                place = f" while writing {inner.filename}"
            return f"the disk is full{place}: free some room (alignet-ray gc) and run it again"
        # Libraries in C++ (Arrow, SQLite) put the system's text into errors of their own, without its number.
        if "No space left on device" in str(inner):
            return "the disk is full: free some room (alignet-ray gc) and run it again"
        if isinstance(inner, OSError) and inner.errno in UNWRITABLE and inner.filename:
            return f"cannot use {inner.filename}: {inner.strerror}"
        # Arrow's errors have a number, and the file in their text.
        if isinstance(inner, OSError) and inner.errno in UNWRITABLE and "Detail:" in str(inner.strerror):
            return f"{str(inner.strerror).partition('. Detail:')[0]}: {os.strerror(inner.errno)}"
        # Arrow's own clients have no type of error, only a text.
        if isinstance(inner, RemoteError) or (isinstance(inner, OSError) and STORE_ERRORS.search(str(inner))):
            return (
                f"the remote storage failed ({first_line(inner)}): check its address, the credentials, the connection"
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that it wraps, breadth first; Ray keeps causes in attributes of its own."""
    queue: list[BaseException | None] = [error]
    seen: set[int] = set()
    while queue:
        inner = queue.pop(0)
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        failures = getattr(inner, "worker_failures", None) or {}
        queue += [getattr(inner, "cause", None), inner.__cause__, inner.__context__]
        queue += failures.values()


def dispatch(args: list[str]) -> None:
    """Parse the options of the command named first and call it.

    Raises:
        UserError: an unknown command or option.
    """
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if args[0] in ("-V", "--version"):
        from alignet_ray import __version__

        print(__version__)
        return

    # `--debug` may also stand before the command.
    name, *rest = [arg for arg in args if arg != "--debug"] or [""]
    if name not in COMMANDS:
        raise UserError(unknown("command", name, (*COMMANDS, "--help", "--version")))
    command = COMMANDS[name]

    # tyro and pydantic take a second, which the overview and wrong commands need not wait for.
    from alignet_ray import runtime
    from alignet_ray.cli import options, parse

    chosen = parse.read(getattr(options, command.options), name, rest)
    module, _, function = command.function.partition(":")

    call = getattr(importlib.import_module(f"alignet_ray.cli.{module}"), function)
    # Whatever stops a command, it takes back what it has half written.
    with runtime.terminable():
        if command.group == "stages":
            call(chosen, name)
        else:
            call(chosen)


def overview() -> str:
    """All commands by group."""
    lines: list[str] = []
    group = ""
    for name, command in COMMANDS.items():
        if command.group != group:
            group = command.group
            lines += ["", group]
        lines.append(f"  {name:<10} {command.summary}")
    return OVERVIEW.format(commands="\n".join(lines))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: the nearest one that does, or all of them."""
    # A near name is almost always the one that was meant, so the others are left out.
    known = list(known)
    close = nearest(name, known)
    if close:
        return f"unknown {kind} {name!r}: did you mean {close!r}?"
    if len(known) > SHORT_LIST:
        return f"unknown {kind} {name!r}: --help lists them"
    return f"unknown {kind} {name!r}: there are {', '.join(known)}"
