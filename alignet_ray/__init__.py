"""alignet_ray: vision models aligned with human similarity judgements.

    import alignet_ray
    model = alignet_ray.load("runs/distill/<id>")        # or "models:/alignet-student@candidate"
    model.embed("dog.jpg"), model.odd_one_out("dog.jpg", "cat.jpg", "car.jpg")

`run("smoke")` runs a preset or a `Config` and returns its scores, report and student; `plan` says what it would do,
`run_study` runs it on every fold of the objects, and `run_sweep` tunes its settings. `list_runs`, `open_run` and
`compare` look at what ran before, `verify` checks a file of human judgements, and `embed` embeds a folder.
`import_student` makes a student of a released AligNet model or of big_vision's weights. `EmbeddingTransformer` is
`embed` for scikit-learn. `presets` holds the named configurations.
Names are imported when they are used: importing the package imports neither ray, torch nor mlflow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_SOURCES = {
    "AffineTransform": ("alignet_ray.core.affine", "AffineTransform"),
    "Config": ("alignet_ray.config", "Config"),
    "EmbeddingTransformer": ("alignet_ray.models.sklearn_transformer", "EmbeddingTransformer"),
    "Store": ("alignet_ray.store", "Store"),
    "UserError": ("alignet_ray.errors", "UserError"),
    "compare": ("alignet_ray.api", "compare"),
    "embed": ("alignet_ray.api", "embed"),
    "import_student": ("alignet_ray.api", "import_student"),
    "list_runs": ("alignet_ray.api", "list_runs"),
    "load": ("alignet_ray.models.hub", "load"),
    "open_run": ("alignet_ray.api", "open_run"),
    "plan": ("alignet_ray.api", "plan"),
    "presets": ("alignet_ray.config.presets", None),
    "run": ("alignet_ray.api", "run"),
    "run_study": ("alignet_ray.api", "run_study"),
    "run_sweep": ("alignet_ray.api", "run_sweep"),
    "verify": ("alignet_ray.api", "verify"),
}

__all__ = ["__version__", *_SOURCES]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _SOURCES:
        raise AttributeError(f"module 'alignet_ray' has no attribute {name!r}")

    # A module that is imported already is only looked up, so a second use costs nothing.
    module_name, attribute = _SOURCES[name]
    module = importlib.import_module(module_name)
    if attribute is None:
        return module
    return getattr(module, attribute)


def __dir__() -> list[str]:
    """The public names, for completion and help."""
    return sorted(__all__)
