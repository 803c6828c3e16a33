"""The pipeline's graph: which nodes there are, and which artifacts each of them reads.

A node is a stage in a role (`embed@corpus`, `distill@control`). The nodes of a run, and the nodes that each reads:

    soften            -                    (files of human responses)
    embed@objects     -                    (images of the annotated objects; network: the teacher)
    embed@corpus      -                    (images of the corpus; network: the teacher)
    align             soften, embed@objects
    cluster           embed@corpus, align, soften (images of held-out objects stay out of the clusters)
    label@aligned     embed@corpus, align, cluster, soften
    distill@student   label@aligned and all that it reads
    label@raw         label@aligned (its triplets), embed@corpus, align (the width of its features)
    distill@control   label@raw and all that it reads
    embed@base, embed@student, ...         (images of the annotated objects; network: every model to be scored)
    embed@ood-..., embed@set-NAME-...      (the same networks on other images: `evaluate.ood`, `evaluate.sets`)
    evaluate          all of these
    register          distill@student, evaluate, soften, embed@student (to compare it with the registry's champion)

The control is a student whose teacher is not aligned: what it lacks is what alignment brings. With `align.map network`
the teacher itself is fine-tuned: `align` then reads soften alone, embed@objects and embed@corpus read `align`, and
embed@raw (the corpus by the teacher before that) takes the place of embed@corpus for the control. Without human data
`align` is a stored transform, there is no control, and nothing is evaluated. Of stored features without images there
are soften, embed@objects, align and evaluate alone. Each stage's module offers

    VERSION                        raised by hand when its results change
    inputs(cfg, role) -> dict      the values that change the result, for the artifact's id
    sources(cfg, role) -> list     files and folders that it reads besides artifacts
    estimate(cfg, role, sources)   optional: its size in words, for the plan, from the fingerprints of its sources
    refuse(cfg, role)              optional: raises a UserError for what is known to fail before anything starts
    run(work) -> None              does the work: writes into `work.out`, and sets `work.facts`
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listings import Listings
from alignet_ray.screen import Screen
from alignet_ray.stages import embed_jobs, human_inputs
from alignet_ray.stages.embed_jobs import EmbedJob
from alignet_ray.store import Artifact, Draft
from alignet_ray.tracking import Tracker

STAGES = ("embed", "soften", "align", "cluster", "label", "distill", "evaluate", "register")


@dataclass(frozen=True)
class Node:
    """A stage in a role, and the names of the nodes whose artifacts it reads."""

    stage: str
    role: str = ""
    parents: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`stage@role`, or `stage` alone."""
        if not self.role:
            return self.stage
        return f"{self.stage}@{self.role}"


@dataclass
class Work:
    """What a stage's `run` gets.

    Attributes:
        cfg: the configuration of the run.
        node: the node to make.
        parents: finished artifacts that it reads, by node name.
        out: the artifact's folder, to write to.
        tracker: receives metrics while the stage works.
        screen: shows progress.
        listings: listings of the images' folders, which all stages of a run share.
        concurrent: trainings that share the machines' cores: trials of a sweep.
        facts: a dataclass set by the stage with figures about its result, for artifact.json and the tracking server;
            None if it has none.
        warnings: what `warn` said, for artifact.json.
    """

    cfg: Config
    node: Node
    parents: Mapping[str, Artifact]
    out: Draft
    tracker: Tracker
    screen: Screen
    listings: Listings = field(default_factory=Listings)
    concurrent: int = 1
    facts: Any = None
    warnings: list[str] = field(default_factory=list)

    @property
    def role(self) -> str:
        """The node's role."""
        return self.node.role

    @property
    def cache(self) -> Path | None:
        """Local folder of what can be made again; None: nothing is kept."""
        return self.listings.cache

    def parent(self, stage: str) -> Artifact:
        """The artifact of a stage that it reads in one of the stage's roles, such as `embed@corpus`."""
        return next(artifact for name, artifact in self.parents.items() if name.startswith(f"{stage}@"))

    def warn(self, message: str) -> None:
        """Print a warning that the user can act on, and keep it in artifact.json."""
        self.warnings.append(message)
        self.screen.line(f"warning: {message}")

    def tell_left_out(self, left_out: LeftOut) -> None:
        """Say what a listing does not hold: as a warning if somebody may have wanted it."""
        if left_out.concerns_user:
            self.warn(left_out.text())
        elif left_out.text():
            self.screen.line(f"   {left_out.text()}")


def expects_human_data(cfg: Config) -> bool:
    """Whether `soften` and `evaluate` are part of the run.

    They are if human judgements are given. Without any, a stored transform (`align.from`) can still label the corpus;
    without that either, `soften` stays in the run, and asks for the judgements.
    """
    return human_inputs.has_answers(cfg) or not cfg.align.from_


def graph(cfg: Config) -> list[Node]:
    """All nodes of a run, each after its parents.

    A run has one of three shapes: stored features alone; images and human data; images and a stored transform, which
    ends with a student that nobody scores.

    Raises:
        UserError: sets of judgements from outside are given to a run of the last shape.
    """
    if not embed_jobs.has_images(cfg):
        return feature_nodes(cfg)
    nodes = [*teacher_nodes(cfg), *student_nodes(cfg)]

    # Also where neither judgements nor a stored transform are given: `soften` then says what is missing.
    if expects_human_data(cfg):
        return [*nodes, *evaluation_nodes(cfg)]

    # Sets were asked for by name, so they are not left out in silence.
    if cfg.evaluate.sets:
        raise UserError(
            "evaluate.sets needs human data of the run's own, without which nothing is evaluated: give "
            "--human.triplets, --human.comparisons or --human.embedding, or leave the sets out"
        )
    return [*nodes, Node("register", parents=("distill@student",))]


def feature_nodes(cfg: Config) -> list[Node]:
    """A run on stored features of the annotated objects: the teacher, and its scores beside the features' own."""
    objects = _embed_node(embed_jobs.teacher_job(cfg, "objects"))
    parents = ("soften", objects.name)
    return [Node("soften"), objects, Node("align", "", parents), Node("evaluate", "", (*parents, "align"))]


def teacher_nodes(cfg: Config) -> list[Node]:
    """The human model, the teacher's embeddings and map, and the clusters of the corpus."""
    expects_human = expects_human_data(cfg)
    human = _human_parents(cfg)
    embed_nodes = [_embed_node(job) for job in embed_jobs.teacher_jobs(cfg, with_objects=expects_human)]

    # A fine-tuned teacher network comes out of `align` and embeds afterwards; a map is fitted on embeddings.
    if embed_jobs.tunes_network(cfg):
        nodes = [Node("align", "", human), *embed_nodes]
    elif expects_human:
        nodes = [*embed_nodes, Node("align", "", (*human, "embed@objects"))]
    else:
        # A stored transform is checked against the width and the networks of the embeddings that it will map.
        nodes = [*embed_nodes, Node("align", "", ("embed@corpus",))]

    soften = []
    if expects_human:
        soften = [Node("soften")]
    return [*soften, *nodes, Node("cluster", "", (*human, "embed@corpus", "align"))]


def student_nodes(cfg: Config) -> list[Node]:
    """Labels and training of the student, and of the control if there is one."""
    human = _human_parents(cfg)
    nodes = [
        Node("label", "aligned", ("embed@corpus", "align", *human, "cluster")),
        Node("distill", "student", ("label@aligned", "embed@corpus", "align", "cluster", *human)),
    ]
    # Without human data nobody scores a control.
    if not (cfg.distill.control and expects_human_data(cfg)):
        return nodes

    # The control learns the same triplets, labelled by the teacher before its alignment: by the embeddings without the
    # map, or, where the network itself was fine-tuned, by embeddings of the network before that.
    raw = "embed@corpus"
    if embed_jobs.tunes_network(cfg):
        raw = "embed@raw"
    return [
        *nodes,
        Node("label", "raw", (raw, "align", "label@aligned")),
        Node("distill", "control", ("label@raw", raw, "align", "cluster", *human)),
    ]


def evaluation_nodes(cfg: Config) -> list[Node]:
    """Embeddings of all models to be scored, their evaluation, and the registration of the student."""
    jobs = embed_jobs.evaluation_jobs(cfg)
    roles = embed_jobs.student_roles(cfg)
    labels = ["label@aligned"]
    if cfg.distill.control:
        labels.append("label@raw")

    parents = (
        "soften",
        "align",
        "cluster",
        "embed@objects",
        "embed@corpus",
        *labels,
        *(f"distill@{role}" for role in roles),
        *(job.node for job in jobs),
    )
    return [
        *(_embed_node(job) for job in jobs),
        Node("evaluate", "", parents),
        # What it is compared on with the champion of the registry: objects, and the student's embeddings of them.
        Node("register", "", ("distill@student", "evaluate", "soften", "embed@student")),
    ]


def _human_parents(cfg: Config) -> tuple[str, ...]:
    if expects_human_data(cfg):
        return ("soften",)
    return ()


def _embed_node(job: EmbedJob) -> Node:
    return Node("embed", job.name, job.parents)
