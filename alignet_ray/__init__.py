"""alignet_ray: vision models that see similarity as people do.

    import alignet_ray
    model, preprocess = alignet_ray.load("runs/distill/<id>")        # or "models:/alignet-student@candidate"
    model(preprocess(image)[None]).embedding

The verbs of the command line are here as functions: `run(config)`, `plan(config, store)`; `presets` holds whole
configurations.
Names are resolved when they are used: importing the package imports neither ray, torch nor mlflow.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "AffineTransform": ("alignet_ray.core.affine", "AffineTransform"),
    "Config": ("alignet_ray.config", "Config"),
    "Store": ("alignet_ray.store", "Store"),
    "UserError": ("alignet_ray.errors", "UserError"),
    "load": ("alignet_ray.models.hub", "load"),
    "plan": ("alignet_ray.stages.pipeline", "plan"),
    "presets": ("alignet_ray.config.presets", None),
    "run": ("alignet_ray.stages.pipeline", "run"),
}

__all__ = ["AffineTransform", "Config", "Store", "UserError", "__version__", "load", "plan", "presets", "run"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'alignet_ray' has no attribute {name!r}")
    where, attribute = _WHERE[name]
    found = importlib.import_module(where)
    return getattr(found, attribute) if attribute else found
