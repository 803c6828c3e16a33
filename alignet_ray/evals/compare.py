"""Several runs side by side: `alignet-ray compare RUN RUN`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from alignet_ray.core.scores import holm
from alignet_ray.screen import table

LEVEL = 0.05
SHARES = ("odd_one_out", "neighbours", "knn", "probe", "few_shot", "shift", "anomaly", "ood", "two_afc")
"""Metrics that read best as percentages; the others stay plain numbers."""

Key = tuple[str, str, str, str, str, str]


def text(tables: Mapping[str, pa.Table], levels: bool = False) -> str:
    """Scores tables of runs as one text table: a row a score, a column a run.

    With two runs a last column gives the difference, second minus first; an asterisk marks those that differ at 5 %
    after Holm's correction for all rows (normal test from both 95 % intervals; where the items are the same it errs on
    the careful side), a tilde those that were scored on other numbers of items. Rows of single levels (kinds of
    triplets, categories) are left out unless `levels`.

    Args:
        tables: run name -> scores table (schema SCORES).
        levels: whether to show the levels.
    """
    found = {run: {_key(row): row for row in scores.to_pylist()} for run, scores in tables.items()}
    keys = list(dict.fromkeys(key for rows in found.values() for key in rows if levels or not key[4]))
    first, second = list(found.values()) if len(found) == 2 else ({}, {})
    pairs = {key: (first.get(key), second.get(key)) for key in keys} if len(found) == 2 else {}
    sure = _sure({key: (a, b) for key, (a, b) in pairs.items() if a and b})
    lines = []
    for key in sorted(keys, key=lambda k: (k[2], k[3], k[4])):
        model, layer, _, metric, level, _ = key
        line: dict[str, object] = {"metric": metric, "model": model, "layer": layer}
        if levels:
            line["level"] = level
        line |= {run: _show(metric, rows.get(key)) for run, rows in found.items()}
        if pairs:
            line["difference"] = _difference(metric, *pairs[key], key in sure)
        lines.append(line)
    shared = {(key[2], key[5]) for key in keys}
    about = ", ".join(f"{dataset} ({split})" for dataset, split in sorted(shared))
    notes = "\n* differs at 5 %, corrected for all rows; ~ on another number of items" if pairs else ""
    return f"{about}; shares in %, [95 % intervals]\n{table(lines)}{notes}"


def _sure(pairs: Mapping[Key, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> set[Key]:
    """Rows whose difference is none of chance."""
    tested, p_values = [], []
    for key, (first, second) in pairs.items():
        spread = np.hypot(*((row["high"] - row["low"]) / (2 * norm.ppf(0.975)) for row in (first, second)))
        if spread > 0:  # not where there is no interval
            tested.append(key)
            p_values.append(2 * norm.sf(abs(second["value"] - first["value"]) / spread))
    return {key for key, p in zip(tested, holm(np.array(p_values)), strict=True) if p < LEVEL}


def _key(row: Mapping[str, Any]) -> Key:
    return row["model"], row["layer"], row["dataset"], row["metric"], row["level"], row["split"]


def _factor(metric: str) -> tuple[float, str]:
    return (100.0, ".1f") if metric.startswith(SHARES) else (1.0, ".3f")


def _show(metric: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    factor, form = _factor(metric)
    shown = f"{factor * row['value']:{form}}"
    if row["low"] == row["low"]:
        shown += f" [{factor * row['low']:{form}}, {factor * row['high']:{form}}]"
    return shown


def _difference(metric: str, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, sure: bool) -> str:
    if first is None or second is None:
        return ""
    factor, form = _factor(metric)
    marks = (" *" if sure else "") + (" ~" if first["n"] != second["n"] else "")
    return f"{factor * (second['value'] - first['value']):+{form}}{marks}"
