"""The house's rules, kept by a test: which way imports go, who may import Ray and MLflow, how large a room may grow."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignet_ray.stages import STAGES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alignet_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
# Each room may import from itself, from the ground, and from the rooms listed.
GROUND = {"errors", "config", "locations", "store", "screen"}
ROOMS = {
    "core": {"errors"},
    "artifacts": GROUND | {"core"},
    "data": GROUND | {"core", "artifacts"},
    "images": GROUND | {"core", "data", "artifacts"},
    "human": GROUND | {"core", "data", "artifacts"},
    "synthetic": GROUND | {"core", "data"},
    "models": GROUND | {"core", "data", "artifacts", "images", "tracking"},
    "training": GROUND | {"core", "data", "artifacts", "images", "human", "models", "evals"},
    "evals": GROUND | {"core", "data", "artifacts", "human"},
    "report": GROUND | {"core", "data", "artifacts", "evals"},
    "demo": GROUND | {"core", "data", "artifacts", "images", "models"},
    "ask": GROUND | {"core", "data", "artifacts", "images", "human", "demo"},
}
MACHINERY = {"cluster_nodes", "runtime", "root_lease", "root_lock", "run_log", "tracking", "train_reports"}
MACHINERY |= {"logged_student", "registry"}
ROOMS["stages"] = set(ROOMS) - {"demo"} | GROUND | MACHINERY
ROOMS["sweep"] = ROOMS["stages"] | {"stages"}
ROOMS["study"] = ROOMS["stages"] | {"stages"}
RAY = ("stages/", "sweep/", "runtime.py", "cluster_nodes.py", "train_reports.py")
"""Where Ray may be imported."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_run_one_way(path: Path) -> None:
    mine = room(path)
    if mine not in ROOMS:
        return
    used = {m.split(".")[1] for m, _ in imports(path) if m.startswith("alignet_ray.")} - {"__version__"}
    assert used <= ROOMS[mine] | {mine}, f"{path.name} reaches into {used - ROOMS[mine] - {mine}}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_ray_and_mlflow_stay_in_their_rooms(path: Path) -> None:
    used = {m.split(".")[0] for m, _ in imports(path)}
    inside = path.relative_to(PACKAGE).as_posix()
    if not inside.startswith(RAY):
        assert "ray" not in used
    if inside not in ("tracking.py", "logged_student.py", "models/hub.py", "models/serving.py"):
        assert "mlflow" not in used


def test_a_stage_never_imports_another() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        used = {m for m, _ in imports(path) if re.match(r"alignet_ray\.stages\.\w", m)}
        used = {m.split(".")[2] for m in used if m.split(".")[2].islower() and m.split(".")[2] != "graph"}
        assert not used & set(STAGES) - {path.stem} or path.stem == "pipeline", f"{path.name}: {used}"


def test_rooms_stay_small() -> None:
    for path in MODULES:
        lines = len(path.read_text().splitlines())
        assert lines <= 600, f"{path.relative_to(ROOT)} has {lines} lines, 600 at most"
    banned = {"utils", "helpers", "common"}
    assert not [p for p in MODULES if p.stem in banned or p.stem.endswith(("_v2", "_final"))]


def test_functions_stay_short() -> None:
    lengths = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{path.name}:{node.name}")
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert max(lengths)[0] <= 75, max(lengths)
    assert sorted(lengths)[len(lengths) // 2][0] <= 15


def test_nothing_is_unpickled() -> None:
    for path in [*MODULES, *(ROOT / "jobs").glob("*.py")]:
        text = path.read_text()
        assert "allow_pickle=True" not in text, path
        assert not re.search(r"^\s*(import|from) (pickle|joblib|dill)", text, re.M), path
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, f"{path}: {call}"


TEXT_FILES = {"read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "TextIOWrapper", "FileHandler"}
"""Calls that open text in the encoding of the locale if they are not told another."""

BINARY_OPENERS = {"os", "tarfile", "zipfile", "Image", "np"}
"""Modules whose `open` gives no text."""


def opens_text(call: ast.Call) -> bool:
    """Whether a call may open a file as text: by its name, unless a mode says binary or the file is no plain one."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in TEXT_FILES:
        return False
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    constants = [value.value for value in values if isinstance(value, ast.Constant)]
    if any(re.fullmatch(r"[rwax]\+?b\+?", str(constant)) for constant in constants):
        return False
    if name != "open" or not isinstance(function, ast.Attribute):
        return True
    # Of methods called `open` only those of paths count: they are called with nothing or with a mode.
    is_path = not call.args or re.fullmatch("[rwaxt+]+", str(getattr(call.args[0], "value", "")))
    return bool(is_path) and bool(call.args) and ast.unparse(function.value) not in BINARY_OPENERS


def test_text_is_utf8_whatever_the_locale_says() -> None:
    without = []
    for path in [*MODULES, *(ROOT / "jobs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            names = {keyword.arg for keyword in node.keywords}
            is_process = bool(names & {"text", "universal_newlines"})
            if "encoding" not in names and (is_process or opens_text(node)):
                without.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not without


FOR_COMPUTING = {"mlflow", "timm", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib", "pandas", "ray.train"}
"""What takes long to import, and is used by a step that computes."""

FOR_LOOKING = FOR_COMPUTING | {"ray", "torch"}
"""The same for commands that only look at what is there: a plan asks the stages, which name tensors and tasks."""

ALL_STAGES = ", ".join(f"alignet_ray.stages.{stage}" for stage in STAGES)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("alignet_ray, alignet_ray.cli", FOR_LOOKING),
        ("alignet_ray.stages.pipeline", FOR_LOOKING),
        (ALL_STAGES, FOR_COMPUTING),
    ],
    ids=["package", "pipeline", "stages"],
)
def test_importing_the_package_is_light(modules: str, heavy: set[str]) -> None:
    """Commands that only look at a run, plans, and Ray's small processes have nothing of all that to wait for."""
    code = f"import sys, {modules}; print([m for m in {sorted(heavy)} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checking_is_strict_and_names_only_modules_that_exist() -> None:
    """An override for a module that has moved would silently check nothing."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    for override in settings.get("overrides", []):
        named = override["module"]
        for module in [named] if isinstance(named, str) else named:
            path = ROOT / module.removesuffix(".*").replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"mypy's override names {module}"


def test_top_level_is_as_agreed() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    agreed = {"alignet_ray", "jobs", "cluster", "tests", "pyproject.toml", "README.md", "LICENSE"}
    assert {t for t in top if not t.startswith(".")} <= agreed


def test_the_tree_of_the_package_readme_is_the_disk() -> None:
    """Every module is named in the package README's annotated tree, under its folder, and nothing else is."""
    text = (PACKAGE / "README.md").read_text()
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", text, re.S)
    assert tree, "the package README has no annotated tree"
    folder, named = "", set()
    for line in tree.group(1).splitlines():
        name = line.split()[0] if line.strip() else ""
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            named.add((folder if line.startswith("  ") else "") + name)
    disk = {p.relative_to(PACKAGE).as_posix() for p in MODULES if p.name != "__init__.py"}
    assert disk == named, f"missing in the tree: {disk - named}; not on the disk: {named - disk}"


def artifact_files() -> set[str]:
    """File names that the artifacts' modules define as constants."""
    names = set()
    for path in (PACKAGE / "artifacts").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                value = node.value.value
                if isinstance(value, str) and Path(value).suffix:
                    names.add(value)
    return names


def test_a_file_of_an_artifact_is_named_in_its_room_alone() -> None:
    names = artifact_files()
    assert {"images.parquet", "objects.parquet", "report.json", "scores.parquet", "model.json"} <= names
    elsewhere = []
    for path in MODULES:
        # the template of the report has the name of the file that is made from it
        if room(path) in ("artifacts", "report"):
            continue
        constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        named = {node.value for node in constants} & names
        elsewhere += [f"{path.relative_to(PACKAGE)}: {name}" for name in named]
    assert not elsewhere


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def dense_lines(path: Path) -> Iterator[str]:
    """Lines that hold more than one idea: what the rules of style forbid and a machine can see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parent_of = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        around = []
        inner = node
        while inner in parent_of and not isinstance(inner, ast.stmt):
            inner = parent_of[inner]
            around.append(inner)
        place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, COMPREHENSIONS) and any(isinstance(outer, COMPREHENSIONS) for outer in around):
            yield f"{place}: a comprehension inside another"
        if isinstance(node, ast.IfExp) and any(isinstance(outer, (*COMPREHENSIONS, ast.Call)) for outer in around):
            yield f"{place}: a conditional expression inside an argument or a comprehension"
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else []
            if len(values) > 2:
                yield f"{place}: more than two assignments at once"
        if isinstance(node, ast.NamedExpr) and not isinstance(around[-1], ast.If | ast.While):
            yield f"{place}: an assignment inside an expression that is no condition"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_line_holds_one_idea(path: Path) -> None:
    assert not list(dense_lines(path))


TESTED_ELSEWHERE = {
    # Commands are tested as a user types them.
    "__main__.py": "test_end_to_end.py",
    "cli/__main__.py": "test_end_to_end.py",
    "cli/doctor.py": "test_surroundings.py",
    "cli/main.py": "test_cli.py",
    "cli/models.py": "test_registry.py",
    "cli/results.py": "test_cli.py",
    "cli/runs.py": "test_cli.py",
    "cli/verify.py": "test_checks.py",
    # Fields of the config are tested together, section by section.
    "config/stages.py": "config/test_sections.py",
    # The server, its pictures and its verdicts answer one request together.
    "demo/server.py": "demo/test_demo.py",
    # What a stage hands to its processes, and the processes.
    "stages/embed_actor.py": "stages/test_embed.py",
    "stages/evaluation_report.py": "stages/test_evaluate.py",
    "stages/finetune_teacher.py": "training/test_teacher_worker.py",
    "stages/register.py": "test_registry.py",
    "training/student_worker.py": "stages/test_distill.py",
    "training/teacher_job.py": "training/test_teacher_worker.py",
    "training/teacher_result.py": "training/test_teacher_worker.py",
    "training/teacher_validation.py": "training/test_teacher_worker.py",
    # A generated world is drawn, and its base trained, once for all its tests.
    "synthetic/pretrain.py": "synthetic/test_world.py",
}
"""Modules without a test file of their own -> the file under tests/ that tests them. The list may only shrink."""


def mirror(module: str) -> str:
    """The test file of a module, relative to tests/."""
    path = Path(module)
    return path.with_name(f"test_{path.name}").as_posix()


def test_every_module_has_a_test_file() -> None:
    tests = ROOT / "tests"
    modules = {path.relative_to(PACKAGE).as_posix() for path in MODULES if path.name != "__init__.py"}
    missing = sorted(m for m in modules - set(TESTED_ELSEWHERE) if not (tests / mirror(m)).is_file())
    assert not missing, f"no tests/{mirror(missing[0])}"

    gone = set(TESTED_ELSEWHERE) - modules
    assert not gone, f"no such modules: {gone}"
    has_its_own = [module for module in TESTED_ELSEWHERE if (tests / mirror(module)).is_file()]
    assert not has_its_own, f"have a test file now, strike them from TESTED_ELSEWHERE: {has_its_own}"
    assert all((tests / other).is_file() for other in TESTED_ELSEWHERE.values())
