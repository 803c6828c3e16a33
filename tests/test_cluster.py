"""The files under cluster/: valid by Ray's schema and by the fields that matter, of one version, free of secrets."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from alignet_ray import __version__
from alignet_ray.cli.options import PlanOptions
from alignet_ray.cli.parse import read
from alignet_ray.stages import STAGES

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
RAY_UP = sorted(CLUSTER.glob("ray-*.yaml"))
MANIFESTS = [
    CLUSTER / f"{name}.yaml" for name in ("kuberay-storage", "kuberay-cluster", "kuberay-job", "mlflow-kubernetes")
]
FILES = sorted(p for p in CLUSTER.iterdir() if p.is_file())
IMAGE = f"registry.example.com/alignet-ray:{__version__}-ray{ray.__version__}"
HEALTH = {"path": "/api/healthz", "port": 52365}  # Ray's agent, whose default port that is, answers for node and GCS


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def documents() -> list[dict[str, Any]]:
    return [d for path in MANIFESTS for d in yaml.safe_load_all(path.read_text())]


def kind(name: str) -> list[dict[str, Any]]:
    return [d for d in documents() if d["kind"] == name]


def pod_specs() -> list[dict[str, Any]]:
    cluster = load(CLUSTER / "kuberay-cluster.yaml")["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    plain = [d["spec"] for d in documents() if d["kind"] in ("Deployment", "StatefulSet")]
    return [g["template"]["spec"] for g in [*groups, *plain]]


def pins() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


# ray up


@pytest.mark.parametrize("path", RAY_UP, ids=lambda p: p.name)
def test_ray_up_files_fit_rays_schema(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    config = load(path)
    jsonschema.validate(config, schema)
    filled = prepare_config(config)
    validate_config(filled)
    types = filled["available_node_types"]
    if path.name != "ray-local.yaml":
        assert all(types[t]["min_workers"] == 0 for t in types), "nothing runs, and costs, before it is asked for"
        assert types["head"]["resources"] == {"CPU": 0}, "the head is for the driver"
        assert {"cpu", "gpu"} <= types.keys()


@pytest.mark.parametrize("path", RAY_UP, ids=lambda p: p.name)
def test_ray_up_files_share_one_path_and_bind_the_dashboard_to_loopback(path: Path) -> None:
    config = load(path)
    assert config["docker"]["image"] == IMAGE
    assert not {"head_image", "worker_image"} & config["docker"].keys(), "one image, one set of mounts, for all nodes"
    assert "--volume /shared:/shared" in config["docker"]["run_options"]
    assert any("/shared" in command for command in config["initialization_commands"])
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    port = re.search(r"--port=(\d+)", head)
    assert port
    assert f"$RAY_HEAD_IP:{port.group(1)}" in worker


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_cloud_workers_are_spot(name: str) -> None:
    types = load(CLUSTER / f"ray-{name}.yaml")["available_node_types"]
    for worker in ("cpu", "gpu"):
        node = types[worker]["node_config"]
        market = node.get("InstanceMarketOptions", node.get("scheduling"))
        assert "spot" in str(market).lower()
    assert "spot" not in str(types["head"]).lower(), "a spot machine can be taken away"


# KubeRay


def test_the_job_runs_on_the_same_cluster_as_the_standing_one() -> None:
    job = load(CLUSTER / "kuberay-job.yaml")
    assert job["spec"]["rayClusterSpec"] == load(CLUSTER / "kuberay-cluster.yaml")["spec"]
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["backoffLimit"] > 0, "a run that lost its head is tried again, and continues"
    assert spec["activeDeadlineSeconds"] > 0


def test_kuberay_fields() -> None:
    for document in kind("RayCluster") + kind("RayJob"):
        assert document["apiVersion"] == "ray.io/v1"
    spec = load(CLUSTER / "kuberay-cluster.yaml")["spec"]
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"]["mode"] == "token"
    assert spec["authOptions"]["secretName"]
    assert spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {g["groupName"]: g for g in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group in groups.values():
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) >= 8, "an embedding actor computes on one core and decodes on the others"
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never", (
            "the autoscaler replaces a lost worker; a restarted pod would be another node"
        )
        assert any("spot" in t["key"] for t in pod["tolerations"])
    gpu = groups["gpu"]["template"]["spec"]
    a_node = int(gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert a_node == 8, "a pod a node: GPUs of two pods would not reach each other directly"
    assert a_node * groups["gpu"]["maxReplicas"] == 64, "as many as the plans of cluster/README.md"
    assert any(t["key"] == "nvidia.com/gpu" for t in gpu["tolerations"])


def test_ray_pods_share_image_mounts_and_probes() -> None:
    spec = load(CLUSTER / "kuberay-cluster.yaml")["spec"]
    pods = [g["template"]["spec"] for g in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    containers = [pod["containers"][0] for pod in pods]
    assert {container["image"] for container in containers} == {IMAGE}
    assert all(container["volumeMounts"] == containers[0]["volumeMounts"] for container in containers)
    assert {m["mountPath"] for m in containers[0]["volumeMounts"]} == {"/shared", "/dev/shm"}
    (claim,) = kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod, container in zip(pods, containers, strict=True):
        volumes = {v["name"]: v for v in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        memory = volumes["memory"]["emptyDir"]
        assert memory["medium"] == "Memory"
        limit = gibibytes(container["resources"]["limits"]["memory"])
        shared = gibibytes(memory["sizeLimit"])
        assert 0.3 * limit <= shared <= 0.5 * limit, "room for Ray's object store (30 %), and the rest for work"
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == HEALTH


def test_a_pod_that_is_stopped_lets_its_work_move_away() -> None:
    """Ray's own parser takes the command, and Kubernetes waits for it."""
    from ray.scripts.scripts import drain_node

    for group in load(CLUSTER / "kuberay-cluster.yaml")["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        shell, option, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (shell, option) == ("/bin/sh", "-c")
        drain, wait = script.split("; ")
        words = shlex.split(drain)
        assert words[:2] == ["ray", "drain-node"]
        options = drain_node.make_context("drain-node", words[2:]).params
        assert options["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
        assert options["node_id"] is None, "the node that it runs on"
        left = options["deadline_remaining_seconds"]
        assert wait == f"sleep {left}", "the node has to live until its work has moved"
        assert left < pod["terminationGracePeriodSeconds"]
        assert left < 120, "AWS takes a spot machine two minutes after its notice"


def test_weights_are_fetched_once_for_all_pods() -> None:
    spec = load(CLUSTER / "kuberay-cluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        env = {entry["name"]: entry["value"] for entry in group["template"]["spec"]["containers"][0]["env"]}
        assert env["HF_HOME"].startswith("/shared/")


def test_only_pods_that_need_to_reach_the_cluster() -> None:
    (policy,) = [p for p in kind("NetworkPolicy") if p["metadata"]["name"] == "alignet-ray"]
    selected = [peer["podSelector"] for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert {} not in selected, "an empty selector is every pod of the namespace"
    labels = [selector["matchLabels"] for selector in selected]
    # Kubernetes gives this label to the pods of a job, and the operator calls the job as the RayJob.
    job = load(CLUSTER / "kuberay-job.yaml")["metadata"]["name"]
    assert {"batch.kubernetes.io/job-name": job} in labels
    assert {"app.kubernetes.io/name": "kuberay-operator"} in labels


def gibibytes(amount: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Gi|Ti)", amount).groups()  # type: ignore[union-attr]
    return int(number) * {"Gi": 1, "Ti": 1024}[unit]


def test_every_container_is_bounded_and_unprivileged() -> None:
    for pod in pod_specs():
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert "readinessProbe" in container
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]


def test_manifests_name_only_what_exists() -> None:
    """Services and policies select pods that exist, and mounts have volumes."""
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in kind("Deployment") + kind("StatefulSet")]
    for service in kind("Service"):
        assert service["spec"]["selector"] in labels
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", "no service is reachable from outside"
    for pod in pod_specs():
        named = {v["name"] for v in pod.get("volumes", [])} | {"database"}
        assert {m["name"] for container in pod["containers"] for m in container.get("volumeMounts", [])} <= named
    policies = [p["spec"]["podSelector"]["matchLabels"] for p in kind("NetworkPolicy")]
    assert {"app": "mlflow-postgres"} in policies
    assert {"app": "mlflow"} in policies
    assert {"ray.io/is-ray-node": "yes"} in policies


@pytest.mark.skipif(
    "ALIGNET_KUBERAY_CRDS" not in os.environ, reason="ALIGNET_KUBERAY_CRDS names no folder of KubeRay's CRDs"
)
@pytest.mark.parametrize(("name", "crd"), [("cluster", "rayclusters"), ("job", "rayjobs")])
def test_kuberay_files_fit_the_operators_schema(name: str, crd: str) -> None:
    text = (Path(os.environ["ALIGNET_KUBERAY_CRDS"]) / f"ray.io_{crd}.yaml").read_text()
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    schema = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
    jsonschema.Draft202012Validator(strict(schema)).validate(load(CLUSTER / f"kuberay-{name}.yaml"))


def strict(schema: Any) -> Any:
    """An OpenAPI schema of Kubernetes as JSON schema, with unknown fields refused."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {"additionalProperties": False} if "properties" in schema and "additionalProperties" not in schema else {}
    return {key: strict(value) for key, value in schema.items()} | closed


# MLflow


def test_mlflow_listens_on_loopback_and_reads_its_password_from_a_secret() -> None:
    compose = load(CLUSTER / "mlflow-compose.yaml")
    mlflow, postgres = compose["services"]["mlflow"], compose["services"]["postgres"]
    assert mlflow["ports"] == ["127.0.0.1:5000:5000"]
    assert "ports" not in postgres
    assert postgres["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"
    assert mlflow["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert mlflow["build"] == {"context": "..", "dockerfile": "cluster/Dockerfile", "target": "mlflow"}
    ignored = (ROOT / ".gitignore").read_text().split()
    assert Path(compose["secrets"]["postgres_password"]["file"]).name in ignored
    assert {mlflow["image"], *images_of("mlflow")} == {f"registry.example.com/alignet-mlflow:{pins()['mlflow']}"}
    assert len({postgres["image"], *images_of("postgres")}) == 1


def images_of(name: str) -> set[str]:
    """Images of the containers of this name in the Kubernetes files."""
    containers = [container for pod in pod_specs() for container in pod["containers"]]
    return {container["image"] for container in containers if container["name"] == name}


def test_mlflow_commands_are_understood() -> None:
    """The server's own parser takes every option of both files."""
    from mlflow.cli import server

    (deployment,) = kind("Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    script = load(CLUSTER / "mlflow-compose.yaml")["services"]["mlflow"]["command"][-1]
    composed = shlex.split(script.replace("$$", "$"))
    composed = composed[composed.index("server") + 1 :]
    for args in (arguments, composed):
        options = server.make_context("server", list(args)).params
        assert options["backend_store_uri"].startswith("postgresql+psycopg2://mlflow@")
        assert options["port"] == 5000


# Dockerfile: the rules of hadolint that matter here


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        elif found:
            found[list(found)[-1]].append((word, rest))
    return found


def test_the_dockerfile_is_pinned_staged_and_unprivileged() -> None:
    lines = instructions()
    (base,) = [rest for word, rest in lines if word == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.12\.\d+-slim-\w+", base)
    assert all(rest.startswith("python:${PYTHON} AS ") for word, rest in lines if word == "FROM")
    assert set(stages()) == {"build", "ray", "mlflow"}
    for name in ("ray", "mlflow"):
        users = [rest for word, rest in stages()[name] if word == "USER"]
        assert users, f"{name} runs as root"
        assert users[-1] not in ("root", "0")
    assert not [word for word, _ in lines if word in ("ADD", "MAINTAINER")]
    installed = " ".join(rest for word, rest in stages()["ray"] if word == "RUN").split()
    assert {"gcc", "g++"} <= set(installed), "networks are compiled where they run"
    for word, rest in lines:
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
        if word == "RUN" and "pip install" in rest and "--constraint" not in rest and "--no-deps" not in rest:
            packages = re.findall(r"pip install ([^&]+)", rest)[0].split()
            assert all("==" in p for p in packages), rest
        if word in ("ENV", "ARG"):
            assert not re.search(r"(TOKEN|PASSWORD|SECRET|KEY)=", rest)


def test_the_image_copies_what_the_context_offers() -> None:
    offered = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [p for word, rest in stages()["build"] if word == "COPY" for p in rest.split()[:-1]]
    assert set(copied) == set(offered)
    assert all((ROOT / p).exists() for p in copied)


def test_the_constraints_cover_what_the_package_needs() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("ray", "mlflow"):
        # A range, as people's clusters have versions of their own; the image has one of it.
        (allowed,) = re.findall(rf'^    "{name}(?:\[[a-z,]+\])?([^"]+)"', project, re.M)
        assert Version(pins()[name]) in SpecifierSet(allowed)
    needed = re.findall(r'^    "([a-z0-9-]+)', re.search(r"dependencies = \[\n(.*?)\n\]", project, re.S).group(1), re.M)  # type: ignore[union-attr]
    assert {n.lower() for n in needed} <= pins().keys()
    assert pins()["ray"] == ray.__version__
    mlflow = re.search(r"mlflow==([\d.]+)", (CLUSTER / "Dockerfile").read_text())
    assert mlflow
    assert mlflow.group(1) == pins()["mlflow"]


# Everything


def commands() -> list[tuple[str, str]]:
    """(file, command line) of every run of this package that a file under cluster/ names."""
    found = [("kuberay-job.yaml", load(CLUSTER / "kuberay-job.yaml")["spec"]["entrypoint"])]
    for path in FILES:
        text = re.sub(r"\\\n\s*(#\s*)?", " ", path.read_text())
        for line in text.splitlines():
            match = re.search(rf"(python jobs/\w+\.py|alignet-ray (?:run|plan|{'|'.join(STAGES)})\b)[^`&|]*", line)
            if match and "Usage" not in line:
                found.append((path.name, match.group(0).strip().rstrip("&").strip()))
    return found


@pytest.mark.parametrize(("file", "line"), commands(), ids=lambda v: v[:60])
def test_every_command_parses(file: str, line: str) -> None:
    line = re.sub(r"\$\(\([^)]*\)\)", "1", line).replace('"$@"', "smoke").replace('"$address:$port"', "10.0.0.1:6379")
    words = shlex.split(line)
    if words[0] == "python":
        script = ROOT / words[1]
        assert script.is_file()
        assert importlib.util.spec_from_file_location(script.stem, script)
    read(PlanOptions, "plan", words[2:])


def test_every_file_with_an_entrypoint_has_a_checked_command() -> None:
    files = {file for file, _ in commands()}
    assert {"kuberay-cluster.yaml", "kuberay-job.yaml", "slurm.sh", *(p.name for p in RAY_UP)} <= files


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_no_secret_in_any_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|gh[pousr]_\w{20,}|hf_\w{20,}", text)
    for name, value in re.findall(
        r"(\w*(?:password|secret|token|key)\w*)[=:][ \t]*[\"']?([^\s\"'{}\[\],]+)", text, re.I
    ):
        assert value.startswith(("alignet-", "/run/secrets/")) or not re.fullmatch(r"[\w+/=-]{16,}", value), (
            f"{path.name}: {name} looks like a secret"
        )
    for credentials in re.findall(r"://([^/\s]*)@", text):
        assert ":" not in credentials, "a password inside a URL"


def test_the_shell_script_parses(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_image_names_agree_everywhere() -> None:
    text = "\n".join(p.read_text() for p in FILES)
    assert set(re.findall(r"registry\.example\.com/alignet-ray:\S+", text)) == {IMAGE}


def test_a_job_ships_the_package_and_not_the_data(tmp_path: Path) -> None:
    """Ray's own packaging over a copy of the checkout with data in it."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    tree = tmp_path / "checkout"
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    data = ["runs/embed/1/part-00000.parquet", "images/cat/1.JPEG", "teacher.safetensors", ".git/HEAD", "mlflow.db"]
    contents = {name: (ROOT / name).read_bytes() for name in listed.splitlines() if (ROOT / name).is_file()}
    contents |= dict.fromkeys(data, b"x" * 100_000)
    for name, content in contents.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)

    package = tmp_path / "package.zip"
    create_package(str(tree), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())

    names = [name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")]
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.startswith(".")} == {
        "alignet_ray",
        "jobs",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    assert not {".git", ".github"} & top
    assert {"alignet_ray/cli/main.py", "jobs/pipeline.py"} <= set(names)
    # The weights of the generated world's base network are 1.5 MB of it.
    assert package.stat().st_size < 5_000_000
