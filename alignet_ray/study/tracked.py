"""A finished study on the tracking server: one run with its pooled agreement with people and its page."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.screen import Screen, markdown_tables
from alignet_ray.stages import run_page
from alignet_ray.study.folder import MARKDOWN, PAGE, SCORES, SETTINGS, StudyFolder
from alignet_ray.tracking import Session, client

TAG = "alignet.study"
"""Tag of the run: the id of the study's folder."""


def record(cfg: Config, folder: StudyFolder, lines: Sequence[str], state: Path, screen: Screen) -> None:
    """Log a study whose runs have all ended, unless it is there from an earlier call.

    Args:
        cfg: the study's settings.
        folder: its results.
        lines: what it ends with on the screen, which becomes the run's description.
        state: folder of the embedded database and of what waits for a server.
        screen: is told if the server does not answer: the study is finished all the same.
    """
    try:
        session = Session.open(cfg, state, runtime.source_tags())
        if _is_there(session, folder):
            return
    except UserError as error:
        screen.line(f"warning: the study is not on the tracking server: {error}")
        return

    tracker = session.begin(f"{cfg.name} study", cfg, {TAG: folder.draft.id} | runtime.tags())
    with run_page.ended(session, tracker), tempfile.TemporaryDirectory() as local:
        tracker.log_batch(headline(folder), 0)
        session.describe(tracker, markdown_tables(lines))
        for name in (PAGE, MARKDOWN, SCORES, SETTINGS):
            copy = Path(local) / name
            copy.write_bytes(folder.draft.read_bytes(name))
            session.attach(tracker, copy)
    session.flush()


def _is_there(session: Session, folder: StudyFolder) -> bool:
    """Whether an earlier call has logged this study to its end."""
    wanted = f"tags.`{TAG}` = '{folder.draft.id}' and attributes.status = 'FINISHED'"
    return bool(client(session.uri).search_runs([session.experiment], wanted, max_results=1))


def headline(folder: StudyFolder) -> dict[str, float]:
    """Agreement of every model over all folds and seeds, with its 95 % interval, and the gains over the base."""
    figures: dict[str, float] = {}
    for score in folder.scores():
        name = "/".join(filter(None, (score.metric, score.model, score.layer)))
        is_overall = score.dataset == "objects" and score.metric == "odd_one_out" and not score.level
        is_gain = score.metric == "odd_one_out_gain" and score.level == "over:base"
        if is_overall or is_gain:
            figures |= {name: score.value, f"{name}/low": score.low, f"{name}/high": score.high}
    return figures
