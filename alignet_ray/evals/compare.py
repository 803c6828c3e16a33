"""Several runs side by side: `alignet-ray compare RUN RUN`."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from alignet_ray.screen import table

SHARES = ("odd_one_out", "neighbours", "knn", "probe", "few_shot", "shift", "anomaly")
"""Metrics that read best as percentages; the others stay plain numbers."""

Key = tuple[str, str, str, str, str, str]


def text(tables: Mapping[str, pa.Table], levels: bool = False) -> str:
    """Scores tables of runs as one text table: a row a score, a column a run.

    With two runs a last column gives the difference, second minus first, with an asterisk where the 95 % intervals do
    not touch. Rows of single levels (kinds of triplets, categories) are left out unless `levels`.

    Args:
        tables: run name -> scores table (schema SCORES).
        levels: whether to show the levels.
    """
    found = {run: {_key(row): row for row in scores.to_pylist()} for run, scores in tables.items()}
    keys = list(dict.fromkeys(key for rows in found.values() for key in rows if levels or not key[4]))
    lines = []
    for key in sorted(keys, key=lambda k: (k[2], k[3], k[4])):
        model, layer, _, metric, level, _ = key
        line: dict[str, object] = {"metric": metric, "model": model, "layer": layer}
        if levels:
            line["level"] = level
        line |= {run: _show(metric, rows.get(key)) for run, rows in found.items()}
        if len(found) == 2:
            line["difference"] = _difference(metric, *(rows.get(key) for rows in found.values()))
        lines.append(line)
    shared = {(key[2], key[5]) for key in keys}
    about = ", ".join(f"{dataset} ({split})" for dataset, split in sorted(shared))
    return f"{about}; shares in %, [95 % intervals]\n{table(lines)}"


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


def _difference(metric: str, first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> str:
    if first is None or second is None:
        return ""
    factor, form = _factor(metric)
    apart = second["low"] > first["high"] or second["high"] < first["low"]
    return f"{factor * (second['value'] - first['value']):+{form}}{' *' if apart else ''}"
