"""Shared fixtures: one Ray for the whole session, a store and a Work that lead nowhere outside tmp_path."""

import atexit
import os
import sys

os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="60",
    RAY_TRAIN_METRICS_ENABLED="0",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
)

from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings
from support.smoke_run import SmokeRun, run_smoke

from alignet_ray.config import Config
from alignet_ray.screen import Screen
from alignet_ray.stages import Node, Work
from alignet_ray.store import Artifact, Store
from alignet_ray.tracking import Tracker

pytest_plugins = ["support.linear_world"]
ENDED = pytest.StashKey[int]()

# A busy machine may take any time for one example; the number of examples stays hypothesis's own.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[ENDED] = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without taking the interpreter apart: native threads of the libraries that still run may crash in that
    (seen once, after all tests had passed, and it would be the exit status)."""
    if ENDED in config.stash:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[ENDED])


SMOKE_TESTS = (
    "tests/test_readme.py",
    "tests/test_api.py",
    "tests/test_end_to_end.py",
    "tests/test_example.py",
    "tests/stages/test_champion.py",
    "tests/stages/test_farewell.py",
    "tests/study/test_runner.py",
)
"""Files whose tests share the one smoke run."""

LONGEST = ("tests/test_cluster.py", "tests/stages/", "tests/sweep/", "tests/training/", "tests/test_field.py")
"""Where the longest of the other tests are."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that two test processes end at about the same time."""

    def place(item: pytest.Item) -> int:
        if item.nodeid.startswith(SMOKE_TESTS):
            return 0
        for position, start in enumerate(LONGEST, start=1):
            if item.nodeid.startswith(start):
                return position
        return len(LONGEST) + 1

    items.sort(key=place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Divide the tests over test processes by file; those of the smoke run stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            if file in SMOKE_TESTS:
                return "smoke"
            return file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_ended() -> Iterator[None]:
    import ray

    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def ray_session(ray_ended: None) -> None:
    """A Ray of this process's own; tests that run the whole line may have ended the last one."""
    import ray

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=400_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )


@pytest.fixture
def untyped_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are not checked against their types, as for callers, who have no type checker at run time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def tf32() -> Iterator[None]:
    """Whatever a test sets of how GPUs multiply, it is as before after it."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def make_work(store: Store) -> Callable[..., Work]:
    """make_work(cfg, "label@aligned", {"cluster": artifact, ...}) -> Work with an empty draft.

    All work goes to Ray's processes, though it is small; `force=False` leaves it to the stage.
    """

    def make(
        cfg: Config, name: str, parents: dict[str, Artifact] | None = None, id: str = "test", force: bool = True
    ) -> Work:
        stage, _, role = name.partition("@")
        cfg = cfg.replace(ray__force=force)
        if cfg.store.root == Config().store.root:
            cfg = cfg.replace(store__root=str(Path(store.root)))
        draft = store.draft(stage, f"{role}{id}")
        return Work(cfg, Node(stage, role, tuple(parents or {})), parents or {}, draft, Tracker(), Screen())

    return make


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """One finished `alignet-ray run smoke` for all tests, in a folder that held nothing else."""
    return run_smoke(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="session")
def sample() -> Path:
    """The real sample (images and human-derived data); tests that need it skip where it is not."""
    folder = os.environ.get("ALIGNET_SAMPLE")
    if not folder:
        pytest.skip("ALIGNET_SAMPLE is not set: the real sample is not here")
    return Path(folder)
