"""Odd-one-out: how often a model picks the pair that people pick."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import noise_ceiling, scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals.inputs import AnnotatedObjects, Space, Trials

DATASET = "objects"
NAN = float("nan")


@dataclass(frozen=True)
class HeldOutResponses:
    """What each judge makes of each trial.

    Attributes:
        names: (model, layer) of each column; the last is the human model itself, which is the ceiling.
        agreement: expected agreement with people per trial, averaged over draws of images.
        ties: share of trials in which a model could not choose, per column.
        choice: the pair chosen at the first draw of images (TIE where none was).
    """

    names: list[tuple[str, str]]
    agreement: Float[np.ndarray, "t s"]
    ties: Float[np.ndarray, " s"]
    choice: Int[np.ndarray, "t s"]


def answer(
    space: Space, picks: Int[np.ndarray, "draws m"], trials: Trials
) -> tuple[Float[np.ndarray, " t"], float, Int[np.ndarray, " t"]]:
    """Expected agreement per trial over draws of images, the share of ties, and the choices at the first draw."""
    total, ties, first = np.zeros(len(trials.triplets)), 0.0, None
    for pick in picks:
        matrix = similarity.similarity_matrix(space.rows(pick), space.kind)
        choice = scores.choices(scores.pair_similarities(matrix, trials.triplets))
        total += scores.agreement(choice, trials.probabilities)
        ties += float((choice == scores.TIE).mean())
        first = choice if first is None else first
    assert first is not None, "no draw of images"
    return total / len(picks), ties / len(picks), first


def answers(spaces: list[Space], picks: Int[np.ndarray, "draws m"], trials: Trials) -> HeldOutResponses:
    """All spaces and, last, people's own most likely choice."""
    columns = [answer(space, picks, trials) for space in spaces]
    columns.append((scores.ceiling(trials.probabilities), 0.0, trials.probabilities.argmax(axis=1)))
    agreement, ties, choice = zip(*columns, strict=True)
    names = [(space.model, space.layer) for space in spaces] + [("human", "")]
    return HeldOutResponses(names, np.stack(agreement, 1), np.array(ties), np.stack(choice, 1))


def evaluate(found: HeldOutResponses, trials: Trials, judged: AnnotatedObjects, draws: int, seed: int) -> list[Score]:
    """Agreement (raw, chance-corrected, ceiling-normalised) with intervals over objects; ties; and by kind of trial."""
    means = found.agreement.mean(axis=0)
    boot = scores.object_bootstrap(found.agreement, trials.triplets, len(judged), draws, seed)
    normal = scores.ceiling_normalised
    rows: list[Score] = []
    for column, (model, layer) in enumerate(found.names):
        value, drawn = float(means[column]), boot[:, column]
        low, high = scores.interval(drawn)
        raw = Score(model, layer, DATASET, "odd_one_out", value, low, high, len(trials.triplets), seed=seed)
        rows.append(raw)
        value, low, high = (scores.chance_corrected(v) for v in (value, low, high))
        rows.append(replace(raw, metric="odd_one_out_corrected", value=value, low=low, high=high))
        low, high = scores.interval(np.array([normal(v, top) for v, top in zip(drawn, boot[:, -1], strict=True)]))
        value = normal(raw.value, float(means[-1]))
        rows.append(replace(raw, metric="odd_one_out_normalised", value=value, low=low, high=high))
        rows.append(replace(raw, metric="odd_one_out_ties", value=float(found.ties[column]), low=NAN, high=NAN))
    return rows + gains(found, boot, trials, seed) + by_level(found, trials, judged, draws, seed)


def gains(found: HeldOutResponses, boot: Float[np.ndarray, "draws s"], trials: Trials, seed: int) -> list[Score]:
    """Paired differences on the same trials and the same resamplings of objects; p values after Holm's correction."""
    columns = {name: column for column, name in enumerate(found.names)}
    means, rows, p_values = found.agreement.mean(axis=0), [], []
    for (model, layer), column in columns.items():
        for other, other_layer in (("base", "pre_logits"), ("control", layer)):
            against = columns.get((other, other_layer))
            if model in ("base", "teacher", "human") or model == other or against is None:
                continue
            drawn = boot[:, column] - boot[:, against]
            low, high = scores.interval(drawn)
            value, n = float(means[column] - means[against]), len(trials.triplets)
            rows.append(
                Score(model, layer, DATASET, "odd_one_out_gain", value, low, high, n, f"over:{other}", seed=seed)
            )
            p_values.append(scores.paired_p_value(drawn))
    adjusted = scores.holm(np.array(p_values))
    return rows + [
        replace(row, metric="odd_one_out_gain_p", value=float(p), low=NAN, high=NAN)
        for row, p in zip(rows, adjusted, strict=True)
    ]


def by_level(found: HeldOutResponses, trials: Trials, judged: AnnotatedObjects, draws: int, seed: int) -> list[Score]:
    """Agreement on parts of the trials: by how clear people are, how the categories mix, and for each category."""
    rows = []
    for level, chosen in levels(trials, judged.categories):
        values, triplets = found.agreement[chosen], trials.triplets[chosen]
        boot = scores.object_bootstrap(values, triplets, len(judged), min(draws, 300), seed)
        for column, (model, layer) in enumerate(found.names):
            low, high = scores.interval(boot[:, column])
            mean = float(values[:, column].mean())
            rows.append(Score(model, layer, DATASET, "odd_one_out", mean, low, high, len(values), level, seed=seed))
    return rows


def levels(trials: Trials, categories: list[str], least: int = 20) -> Iterator[tuple[str, Bool[np.ndarray, " t"]]]:
    """Named parts of the trials with at least `least` members.

    margin: the gap between the likeliest and the second likeliest pair, in thirds. categories: three different ones
    (between), two and another (border), one (within). category: trials with at least two objects of it.
    """
    top = np.sort(trials.probabilities, axis=1)
    margin = top[:, 2] - top[:, 1]
    cuts = np.quantile(margin, [1 / 3, 2 / 3])
    third = np.searchsorted(cuts, margin)
    parts = [(f"margin:{name}", third == part) for part, name in enumerate(("low", "middle", "high"))]
    if sum(1 for c in set(categories) if c) > 1:
        names, code = np.unique(categories, return_inverse=True)
        a, b, c = np.sort(code[trials.triplets], axis=1).T
        known = np.array([bool(name) for name in categories])[trials.triplets].all(axis=1)
        distinct = 1 + (a != b).astype(int) + (b != c)
        kinds = (("within", 1), ("border", 2), ("between", 3))
        parts += [(f"categories:{name}", known & (distinct == count)) for name, count in kinds]
        parts += [
            (f"category:{name}", (b == code_) & ((a == b) | (b == c))) for code_, name in enumerate(names) if name
        ]
    yield from ((level, chosen) for level, chosen in parts if chosen.sum() >= least)


def noise_ceilings(rows: Int[np.ndarray, "n 3"], seed: int) -> list[Score]:
    """Both noise ceilings of all answers (pair, pair, odd), where at least two people saw the same triplet.

    odd_one_out_raw_ceiling: how well other people predict an answer; _modal: how well the most frequent answer does.
    """
    if not noise_ceiling.repeated(rows):
        return []
    found = {"": "leave_one_out", "_modal": "modal"}
    tops = {f"odd_one_out_raw_ceiling{end}": noise_ceiling.noise_ceilings(rows)[kind] for end, kind in found.items()}
    return [
        Score("human", "", DATASET, metric, top.value, top.low, top.high, top.answers, split="", seed=seed)
        for metric, top in tops.items()
    ]


def evaluate_raw(
    spaces: list[Space],
    picks: Int[np.ndarray, "draws m"],
    judged: AnnotatedObjects,
    rows: Int[np.ndarray, "n 3"],
    draws: int,
    seed: int,
) -> list[Score]:
    """Agreement with single answers: the rows (pair, pair, odd) whose objects are all among the judged ones."""
    position = {int(o): row for row, o in enumerate(judged.objects)}
    known = np.isin(rows, judged.objects).all(axis=1)
    if not known.any():
        return []
    triplets = np.vectorize(position.__getitem__, otypes=[np.int64])(rows[known])
    certain = np.tile(np.array([1.0, 0.0, 0.0], np.float32), (len(triplets), 1))
    human = judged.human_similarity()
    likely = scores.choices(scores.pair_similarities(human, triplets))
    found = answers(spaces, picks, Trials(triplets, certain))
    found.agreement[:, -1] = scores.agreement(likely, certain)
    boot = scores.object_bootstrap(found.agreement, triplets, len(judged), draws, seed)
    result = []
    for column, (model, layer) in enumerate(found.names):
        low, high = scores.interval(boot[:, column])
        value = float(found.agreement[:, column].mean())
        result.append(Score(model, layer, DATASET, "odd_one_out_raw", value, low, high, len(triplets), seed=seed))
    return result
