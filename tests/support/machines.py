"""A real Ray cluster on this machine for the job tests: every node is a process tree of its own, to be killed alone.

Nothing here uses `ray stop`, which would end other people's clusters: a node is stopped by its own processes' ids.
"""

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        time.sleep(0.1)


@dataclass
class Machine:
    """One node: the `ray start --block` process and all that it started."""

    process: subprocess.Popen[bytes]
    agent: int

    def tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            return [*top.children(recursive=True), top]
        return []

    def kill(self) -> None:
        """kill -9 of everything that runs on this node, as when a machine loses power."""
        tree = self.tree()
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()  # so that nobody notices that others went
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=20)


@dataclass
class LocalCluster:
    """A head and workers, guarded by a token.

    Attributes:
        folder: sessions, logs, the token.
        host: address of the head.
        port: of the head's GCS.
        dashboard: of the head's dashboard.
        settings: further environment variables of every node.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(16))
        self.token.chmod(0o600)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
        return clean | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "10",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
            "OMP_NUM_THREADS": "1",
            **self.settings,
        }

    def start(self, *options: str, inside: list[str] | None = None) -> Machine:
        """Start the head, or a worker if there is a head already; `inside` is a command that runs what follows it."""
        agent = free_port()
        common = ["--block", "--num-cpus=3", "--object-store-memory=200000000", "--disable-usage-stats", *options]
        common += [f"--temp-dir={self.folder / f'ray{len(self.machines)}'}"]  # each its own, as machines have
        common += [f"--dashboard-agent-listen-port={agent}", "--include-log-monitor=false"]
        if self.running():
            role = [f"--address={self.address}"]
        else:
            role = [
                "--head",
                f"--port={self.port}",
                f"--node-ip-address={self.host}",
            ]
            role += [
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={self.dashboard}",
                f"--ray-client-server-port={free_port()}",
            ]
        log = (self.folder / f"node-{len(self.machines)}.log").open("wb")
        process = subprocess.Popen(
            [*(inside or []), str(BIN / "ray"), "start", *role, *common], env=self.env, stdout=log, stderr=log
        )
        self.machines.append(Machine(process, agent))
        until(lambda: process.poll() is not None or self.alive() == len(self.running()), 300, "node")
        assert process.poll() is None, (self.folder / f"node-{len(self.machines) - 1}.log").read_text()
        return self.machines[-1]

    def running(self) -> list[Machine]:
        """Nodes that were not killed."""
        return [m for m in self.machines if m.process.poll() is None]

    def ask(self, path: str) -> Any:
        """JSON from the dashboard."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.dashboard}{path}")
        request.add_header("Authorization", f"Bearer {self.token.read_text()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def alive(self) -> int:
        """Nodes that the head counts as alive; 0 while nothing answers."""
        try:
            nodes = self.ask("/nodes?view=summary")["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def job(self, *args: str, env: dict[str, str] | None = None, timeout: float = 600) -> "Done":
        """`ray job submit --working-dir . -- ARGS`, waited for."""
        command = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{self.dashboard}"]
        command += ["--working-dir", str(ROOT), "--", *args]
        return Done.of(command, self.env | (env or {}), timeout)

    def jobs(self, *args: str, timeout: float = 60) -> "Done":
        """`ray job ARGS`."""
        verb, *rest = args
        command = [str(BIN / "ray"), "job", verb, "--address", f"http://127.0.0.1:{self.dashboard}", *rest]
        return Done.of(command, self.env, timeout)

    def drain(self) -> None:
        """Give notice that the worker node will go, as a pod does that is stopped."""
        nodes = self.ask("/nodes?view=summary")["data"]["summary"]
        (node,) = [n["raylet"]["nodeId"] for n in nodes if not n["raylet"]["isHeadNode"]]
        command = [str(BIN / "ray"), "drain-node", "--address", self.address, "--node-id", node]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "stopped"]
        done = Done.of([*command, "--deadline-remaining-seconds", "60"], self.env, 60)
        assert done.code == 0, done.text

    def stop(self) -> None:
        for machine in reversed(self.running()):
            machine.kill()
        for process in psutil.process_iter():  # agents that outlived their node carry this cluster's token file
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN_PATH") == str(self.token) and process.pid != os.getpid():
                    process.kill()


@dataclass
class Cable:
    """A network namespace behind a cable: a machine with an address, ports and interfaces of its own. Needs root.

    Both ends carry the cable's name, so that one setting names the interface on either side.
    """

    name: str
    near: str
    far: str

    @property
    def inside(self) -> list[str]:
        """What runs a command behind the cable."""
        return ["ip", "netns", "exec", self.name]

    def plug(self, state: str) -> None:
        """`up`, or `down`: nothing gets through, and nobody is told."""
        subprocess.run(["ip", "link", "set", self.name, state], check=True)


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """A cable between this machine and a namespace, both gone at the end."""
    number = secrets.randbelow(200) + 20
    made = Cable(f"aj{number}", f"10.213.{number}.1", f"10.213.{number}.2")
    name = made.name
    steps = [
        f"netns add {name}",
        f"link add {name} type veth peer name {name} netns {name}",
        f"addr add {made.near}/24 dev {name}",
        f"-n {name} addr add {made.far}/24 dev {name}",
        f"-n {name} link set lo up",
        f"-n {name} link set {name} up",
    ]
    try:
        for step in steps:
            subprocess.run(["ip", *step.split()], check=True)
        made.plug("up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@dataclass
class Done:
    """A finished command."""

    code: int
    text: str

    @classmethod
    def of(cls, command: list[str], env: dict[str, str], timeout: float) -> "Done":
        done = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )
        return cls(done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))
