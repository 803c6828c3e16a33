"""The command `ask`: begins and serves a study, and manages its answers."""

from pathlib import Path
from typing import TYPE_CHECKING

from alignet_ray.cli.options import AskOptions
from alignet_ray.errors import UserError
from alignet_ray.screen import Progress, Screen, print_table
from alignet_ray.store import JsonObject

if TYPE_CHECKING:
    from alignet_ray.ask.folder import StudyFolder
    from alignet_ray.ask.study_file import Decision, StudyFile

SETTINGS = (
    *("mode", "objects", "trials", "catch", "repeats", "sampler", "random_share", "break_every"),
    *("links_only", "hashed", "code", "redirect"),
)
"""Options that say what a study asks; they are fixed when it begins."""


def ask(options: AskOptions) -> None:
    """Serve a study, which is begun if need be; or do one thing to it and end.

    Raises:
        UserError: no such study or participant, or as `launch.begin` and `launch.serve`.
    """
    from alignet_ray.ask import launch
    from alignet_ray.ask.folder import open_folder
    from alignet_ray.ask.study_file import StudyFile
    from alignet_ray.demo import web

    if options.simulate:
        _simulate(options)
        return
    if not (options.target or options.name):
        raise UserError("name a folder of images, or a study: alignet-ray ask IMAGES")

    name = options.name or launch.study_name(options.target)
    folder = open_folder(name, options.store.root, options.state_dir)
    screen = Screen()

    # What is done to a study besides serving it needs no web server, and ends at once.
    if _acts(options):
        study = StudyFile.open(folder.require().file)
        _act(options, folder, study, screen)
        study.close()
        return

    web.require_extra()
    images = _images(options, folder)
    if folder.exists:
        study = StudyFile.open(folder.file)
        launch.require_same(study.settings, images, _settings(options), options.given)
    elif images:
        study = launch.begin(folder, images, _settings(options), screen)
    else:
        folder.require()

    launch.serve(folder, study, options.host, options.port, options.public_url, screen)


def _images(options: AskOptions, folder: "StudyFolder") -> str:
    """The images that the command names; "" if it names a study."""
    target = options.target
    if "://" in target:
        return target
    # A study that is there comes before a folder of the same name, which it was probably begun with.
    is_name = "/" not in target and options.name is None and folder.exists
    path = Path(target).expanduser()
    if is_name or not path.exists():
        return ""
    return str(path.resolve())


def _settings(options: AskOptions) -> JsonObject:
    """What the options say about a study's settings."""
    from alignet_ray.ask import launch

    settings = {name: getattr(options, name) for name in SETTINGS}
    if options.instructions:
        settings["text"] = launch.read_instructions(options.instructions)
    return settings


def _acts(options: AskOptions) -> bool:
    """Whether the command does one thing and ends, and serves nothing."""
    about_people = (options.leave_out, options.keep, options.by_rule, options.withdraw)
    return bool(options.links or options.quality or options.export or options.archive or any(about_people))


def _act(options: AskOptions, folder: "StudyFolder", study: "StudyFile", screen: Screen) -> None:
    """Do what the options say."""
    from alignet_ray.ask import archive, export, launch, progress, quality

    if options.links:
        address = options.public_url.rstrip("/") or f"http://{options.host}:{options.port}"
        for link in launch.personal_links(study, address, options.links):
            screen.line(link)

    # Deleting comes before the table and the files, which must not hold these answers any more.
    if options.withdraw:
        count = launch.withdraw(folder, study, _person(study, options.withdraw))
        screen.line(f"withdrawn: {count} answers of {options.withdraw} are deleted")
        screen.line("runs that have read them keep what they learned: delete these with `alignet-ray rm RUN` and gc")

    decisions: list[tuple[str | None, Decision]] = [
        (options.leave_out, "leave out"),
        (options.keep, "keep"),
        (options.by_rule, ""),
    ]
    for participant, decision in decisions:
        if participant:
            study.decide(_person(study, participant), decision)

    # A decision is shown at once among all others.
    if options.quality or any(participant for participant, _ in decisions):
        print_table(progress.table(quality.review(study.people(), study.answers())))

    if options.export:
        for file in export.export(study, options.export.expanduser()):
            screen.line(f"wrote  {file}")
    if options.archive:
        archive.archive(study, options.archive.expanduser())
        screen.line(f"wrote  {options.archive}")


def _simulate(options: AskOptions) -> None:
    """Simulate studies with random and with active questions, and compare them."""
    import numpy as np

    from alignet_ray.ask import simulate
    from alignet_ray.human.triplets import read_embedding

    embedding = read_embedding(str(options.simulate))
    plan = simulate.Plan(options.people, options.trials, options.lapse, options.random_share, options.mode)
    size = options.sample or len(embedding)
    if not 0 < size <= len(embedding):
        raise UserError(f"--sample {options.sample}: the embedding has {len(embedding)} objects")
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: give one or more")
    simulate.require_plan(plan, size)

    screen = Screen()
    total = plan.people * plan.trials
    curves: list[tuple[simulate.Curve, simulate.Curve]] = []
    for seed in range(options.seeds):
        chosen = np.random.default_rng([seed, 0]).permutation(len(embedding))[:size]
        pair: list[simulate.Curve] = []
        for sampler in simulate.SAMPLERS:
            with screen.progress(total, f"{sampler} answers") as progress:

                def report(count: int, progress: Progress = progress) -> None:
                    progress.add(count - progress.done)

                pair.append(simulate.simulate(embedding[chosen], plan, sampler, seed, report))
        curves.append((pair[0], pair[1]))
    screen.line()
    print_table(simulate.curve_rows(curves))
    screen.line()
    print_table(simulate.compare(curves))


def _person(study: "StudyFile", participant: str) -> int:
    """The number of a participant.

    Raises:
        UserError: there is none of this name.
    """
    from alignet_ray.ask.participants import find

    person = find(study, participant)
    if person is None:
        raise UserError(f"nobody named {participant!r} takes part in this study: --quality lists everybody")
    return person.person
