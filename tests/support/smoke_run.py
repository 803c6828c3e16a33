"""The preset `smoke`, run once per session as a user runs it, and its results."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from alignet_ray.store import Artifact, Store


def alignet(*args: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "alignet_ray", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=cwd)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@dataclass(frozen=True)
class SmokeRun:
    """A finished `alignet-ray run smoke`.

    Attributes:
        folder: where the command was called; it was empty before.
        printed: what the command printed.
    """

    folder: Path
    printed: str

    @property
    def root(self) -> Path:
        """The default root, relative to the folder."""
        return self.folder / "runs"

    @property
    def store(self) -> Store:
        return Store.open(str(self.root))

    def __getitem__(self, node: str) -> Artifact:
        """The artifact of a node such as `embed@corpus`."""
        reference = self.store.read_ref("smoke")
        assert reference is not None
        return self.store.artifact(node.split("@")[0], reference.nodes[node])

    @property
    def world(self) -> Path:
        """The folder of the generated images and responses."""
        return next(path.parent for path in self.root.glob("worlds/smoke*/world.json"))

    def score(self, model: str, layer: str, metric: str = "odd_one_out") -> float:
        """The one score of a model over all levels."""
        rows = self["evaluate"].read_table("scores.parquet").to_pylist()
        wanted = (model, layer, metric, "")
        hits = [row for row in rows if (row["model"], row["layer"], row["metric"], row["level"]) == wanted]
        assert len(hits) == 1, (model, layer, metric, rows)
        return float(hits[0]["value"])


def run_smoke(folder: Path) -> SmokeRun:
    """Run the preset in an empty folder, with the default root."""
    printed = alignet("run", "smoke", cwd=folder).stdout
    return SmokeRun(folder, printed)
