"""The nodes of Ray's cluster: waited for, asked what they offer, and whether they see the same storage."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.runtime import LOCAL, ray_address

RELEASE_SECONDS = 5.0
"""Time in which processes that have ended give back what they took."""


PROBE = ".shared-"
"""Beginning of the name of a file by which nodes are asked what they see."""


class ClusterNodes:
    """The nodes that stages spread over: waited for, and each checked once, since any may join late.

    Args:
        cfg: sections `ray`, `store` and the image folders.
        say: prints a line.
    """

    def __init__(self, cfg: Config, say: Callable[[str], None]) -> None:
        self.cfg = cfg
        self.say = say
        self.checked: set[str] = set()
        self.has_told = False

    def ready(self) -> None:
        """Wait for what `--ray.gpus` and `--ray.cpus` ask for; check that new nodes share this process's storage.

        A cluster that starts from zero has no CPU until somebody asks for one, so one at least is asked for.

        Raises:
            UserError: nothing came in time, or a node misses a folder or the package.
        """
        # GPUs first: their nodes bring CPUs with them.
        for kind, count in (("GPU", self.cfg.ray.gpus), ("CPU", self.cfg.ray.cpus)):
            if _offered(kind) < count:
                self._wait(kind, count)
        if not _offered("CPU"):
            self.say("   no worker is there and none was asked for: asking for one (--ray.gpus N, --ray.cpus N)")
            self._wait("CPU", 1)
        self._tell_of_no_gpu()
        self._check_new_nodes()

    def _tell_of_no_gpu(self) -> None:
        """Say once that a cluster computes on CPUs, which it would do for days without a word."""
        if not self.has_told and ray_address(self.cfg) != LOCAL and not _offered("GPU"):
            self.say("   this cluster has no GPU now: all work is done by CPUs (--ray.gpus N asks for GPUs)")
            self.has_told = True

    def _wait(self, kind: str, count: int) -> None:
        """Ask the autoscaler for `count` GPUs or CPUs, and wait for them."""
        from ray.autoscaler.sdk import request_resources

        patience = self.cfg.ray.patience
        self.say(f"   waiting up to {patience:g} minutes for {count} {kind}s: {_offered(kind)} are there")
        deadline = time.monotonic() + 60 * patience
        request_resources(bundles=[{kind: 1}] * count)
        try:
            while _offered(kind) < count and time.monotonic() < deadline:
                time.sleep(1)
        finally:
            # A request stands until the next one: withdrawn, so that idle nodes may leave after the run.
            request_resources(bundles=[])

        if not _offered(kind):
            raise UserError(f"no {kind} came within {patience:g} minutes: `ray status` says why, or ask for fewer")
        self.say(f"   going on with {_offered(kind)} {kind}s")

    def _check_new_nodes(self) -> None:
        """Ask every new node, all at once, whether it sees the folders that all must share."""
        nodes = alive_nodes()
        new = [node for node in nodes if node.id not in self.checked]
        # A single node shares its storage with itself.
        if len(nodes) > 1 and new:
            _require_storage(self.cfg, new)
        self.checked |= {node.id for node in new}


class ClusterResources(NamedTuple):
    """What the running Ray offers: GPUs, and CPU slots."""

    gpus: int
    cpus: int


class RayNode(NamedTuple):
    """A node of the cluster: its id, and its address."""

    id: str
    address: str


def alive_nodes() -> list[RayNode]:
    """The nodes that are there."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [RayNode(node["NodeID"], node["NodeManagerAddress"]) for node in nodes if node["Alive"]]


def cluster_resources() -> ClusterResources:
    """GPUs and CPU slots of all nodes together."""
    import ray

    return _resources(ray.cluster_resources())  # type: ignore[no-untyped-call]


def free_resources() -> ClusterResources:
    """GPUs and CPU slots that nobody takes: what the stage before has left is waited for some seconds."""
    import ray

    offered = cluster_resources()
    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        free = _resources(ray.available_resources())  # type: ignore[no-untyped-call]
        if free == offered or time.monotonic() > deadline:
            return free
        time.sleep(0.1)


def _resources(amounts: Mapping[str, float]) -> ClusterResources:
    """What Ray calls by names, without the resources that are nothing to us."""
    return ClusterResources(gpus=int(amounts.get("GPU", 0)), cpus=int(amounts.get("CPU", 0)))


def _offered(kind: str) -> int:
    offered = cluster_resources()
    return {"GPU": offered.gpus, "CPU": offered.cpus}[kind]


def cores() -> int:
    """Cores of all nodes together: for threads, where slots of a local Ray may be more than there are cores."""
    import ray

    if not ray.is_initialized():
        return os.cpu_count() or 1
    # Nodes of a cluster count their own, of which this process's machine says nothing.
    slots = cluster_resources().cpus
    if len(alive_nodes()) > 1:
        return slots
    return min(slots, os.cpu_count() or 1)


# Storage


def nodes_share(folder: Path) -> bool:
    """Whether all nodes see the files that this process writes into a folder."""
    nodes = alive_nodes()
    if len(nodes) < 2:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    with _probe(folder) as probe:
        answers = [_ask(node, [probe]) for node in nodes]
        # A node that dies meanwhile says nothing, and needs nothing.
        return not any(_answer_of(answer) for answer in answers)


def _require_storage(cfg: Config, nodes: Sequence[RayNode]) -> None:
    """Have nodes look for the local folders and for a file that was made just now.

    Raises:
        UserError: naming the first node and folder that it does not see.
    """
    folders = [folder for folder in (cfg.corpus.path, cfg.objects.path) if folder and "://" not in folder]
    paths = [str(Path(folder).expanduser().resolve()) for folder in folders]

    # A root of the same name may be another disk, so the nodes look for a new file in it.
    with contextlib.ExitStack() as stack:
        if "://" not in cfg.store.root:
            paths.append(stack.enter_context(_probe(Path(cfg.store.root).expanduser().resolve())))
        # All nodes are asked before one of them answers.
        answers = [(node, _ask(node, paths)) for node in nodes]
        for node, answer in answers:
            _check_answer(node.address, answer)


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[str]:
    """The path of a file that is made just now, and gone at the end."""
    file = folder / f"{PROBE}{os.getpid()}"
    file.touch()
    try:
        yield str(file)
    finally:
        file.unlink(missing_ok=True)


def _ask(node: RayNode, paths: list[str]) -> Any:
    """Have a node look for paths; the answer is one of Ray's references."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A task without CPUs runs on a busy node as well.
    task = ray.remote(num_cpus=0, max_retries=0)(_missing)
    on_node = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return task.options(name="look for files", scheduling_strategy=on_node).remote(paths)


def _missing(paths: list[str]) -> list[str]:
    """The paths that this node does not see."""
    return [path for path in paths if not os.path.exists(path)]


def _answer_of(answer: Any) -> list[str]:
    """The paths that a node misses; a node that died misses none."""
    import ray

    try:
        missing: list[str] = ray.get(answer)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return []
    return missing


def _check_answer(address: str, answer: Any) -> None:
    """Turn a node's answer into a message.

    Raises:
        UserError: the node misses a folder, or cannot import the package.
    """
    import ray

    try:
        missing = _answer_of(answer)
    except ray.exceptions.RayTaskError as error:
        raise UserError(
            f"node {address} cannot import alignet_ray: submit with --working-dir . or install the package there"
        ) from error
    if missing:
        # The probe's name says nothing to the user, its folder does.
        folder = missing[0]
        if PROBE in folder:
            folder = os.path.dirname(folder)
        raise UserError(
            f"node {address} does not see {folder}: mount the same storage on every node at the same path, or use s3://"
        )
