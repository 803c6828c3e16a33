"""The graph of the line: which nodes there are, and who reads whom. Nothing else knows the order.

A node is a stage in a role (`embed@corpus`). Each stage's module offers

    VERSION                        raised by hand when its results change
    inputs(cfg, role) -> dict      the config fields that change the result
    sources(cfg, role) -> list     files and folders that it reads besides artifacts
    estimate(cfg, role, sources)   optional: its size in words, for the plan, by the fingerprints of its sources
    refuse(cfg, role)              optional: raises a UserError for what can be known to fail before anything starts
    run(work) -> None              does the work, writing into `work.out`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignet_ray.config import Config
from alignet_ray.data.stored import is_stored
from alignet_ray.screen import Screen
from alignet_ray.stages.embed_jobs import ELSEWHERE
from alignet_ray.store import Artifact, Draft
from alignet_ray.tracking import Tracker

STAGES = ("embed", "soften", "align", "cluster", "label", "distill", "evaluate", "register")


@dataclass(frozen=True)
class Node:
    """One node: a stage in a role, and the names of the nodes whose artifacts it reads."""

    stage: str
    role: str = ""
    parents: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`stage@role`, or `stage` alone."""
        return f"{self.stage}@{self.role}" if self.role else self.stage


@dataclass
class Work:
    """What a stage gets: its configuration and role, its finished parents by node name, and a folder to write to.

    `facts` is a dictionary that a stage fills with what belongs into artifact.json (rows, figures, `warnings` list).
    """

    cfg: Config
    node: Node
    parents: Mapping[str, Artifact]
    out: Draft
    tracker: Tracker
    screen: Screen
    facts: dict[str, Any]

    @property
    def role(self) -> str:
        """The node's role."""
        return self.node.role

    def warn(self, message: str) -> None:
        """A warning that a person can act on: printed now and kept in artifact.json."""
        self.facts.setdefault("warnings", []).append(message)
        self.screen.line(f"warning: {message}")


def judged(cfg: Config) -> bool:
    """Whether people's answers come in; without any, a stored transform (`align.from`) labels the corpus."""
    return bool(cfg.human.triplets or cfg.human.embedding or not cfg.align.from_)


def graph(cfg: Config) -> list[Node]:
    """All nodes, each after its parents.

    With a network teacher the teacher's own weights come out of `align`, so `embed` of objects and corpus reads it, and
    the control's labels need the corpus embedded by the untouched teacher as well (`embed@raw`). Without judgements
    there is nobody to agree with: nothing is softened, held out or evaluated.
    """
    network = cfg.align.map == "network" and not cfg.align.from_
    answers = ("soften",) if judged(cfg) else ()
    if network:
        teacher = [
            Node("align", "", answers),
            Node("embed", "objects", ("align",)),
            Node("embed", "corpus", ("align",)),
        ]
    elif judged(cfg):
        teacher = [Node("embed", "objects"), Node("embed", "corpus"), Node("align", "", ("soften", "embed@objects"))]
    else:
        teacher = [Node("embed", "corpus"), Node("align", "", ("embed@corpus",))]
    students = {"student": ("label@aligned", "embed@corpus")}
    if cfg.distill.control:
        teacher += [Node("embed", "raw")] if network else []
        students["control"] = ("label@raw", "embed@raw" if network else "embed@corpus")
    nodes = [Node(name) for name in answers]
    nodes += [*teacher, Node("cluster", "", (*answers, "embed@corpus", "align"))]
    for role, (label, embedded) in students.items():
        # the control relabels the images of the student's triplets
        drawn = (*answers, "cluster") if role == "student" else ("label@aligned",)
        nodes.append(Node("label", label.split("@")[1], (embedded, "align", *drawn)))
        nodes.append(Node("distill", role, (label, embedded, "align", "cluster", *answers)))
    if not judged(cfg):
        return [*nodes, Node("register", "", ("distill@student",))]
    nodes.append(Node("embed", "base"))
    nodes += [Node("embed", role, (f"distill@{role}",)) for role in students]
    others = [Node("embed", f"other{i}") for i, spec in enumerate(cfg.evaluate.models) if not is_stored(spec)]
    if cfg.evaluate.ood:
        ours = [Node("embed", f"{ELSEWHERE}base"), *(Node("embed", ELSEWHERE + r, (f"distill@{r}",)) for r in students)]
        others += [*ours, *(Node("embed", ELSEWHERE + other.role) for other in others)]
    trained = [f"{stage}@{role}" for role in students for stage in ("distill", "embed")] + [n.name for n in others]
    labels = tuple(label for label, _ in students.values())
    read = ("soften", "align", "embed@objects", "embed@corpus", "embed@base", "cluster", *labels, *trained)
    return [*nodes, *others, Node("evaluate", "", read), Node("register", "", ("distill@student", "evaluate"))]
