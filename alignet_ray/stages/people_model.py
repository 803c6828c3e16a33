"""The model of people for `soften`: which one suits the answers, its fit, and how far more answers would help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from alignet_ray import cluster_nodes
from alignet_ray.artifacts.soften import LearningCurve, Posterior
from alignet_ray.config import Config
from alignet_ray.core import comparisons, gpu, learning_curve, scores, trace_norm, vice
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.comparisons import single_answers
from alignet_ray.human.answers import Answers
from alignet_ray.screen import Progress
from alignet_ray.stages import Work
from alignet_ray.store import JsonObject

VICE = "vice"
TRACE_NORM = "trace_norm"
AUTO = "auto"
"""Values of `soften.model`."""

COLLAPSED = 0.865
"""Cross-entropy, as a share of chance's, above which a fit with few dimensions has not learned to predict choices."""


@dataclass
class FitFacts:
    """Figures of a fit.

    Attributes:
        model: the model of people.
        history: one row for each count of dimensions: step, cross-entropy (nats), significant dimensions.
        stable: whether the number of dimensions was constant at the end.
        best_seed, seed_cross_entropies, seed_dims: of several seeds.
        reproducibility: share of the best fit's dimensions that the other seeds found as well.
        cross_entropies: of every model that was tried, on held-out answers, in nats; None where none was tried.
    """

    model: str
    history: list[dict[str, float]]
    stable: bool
    best_seed: int | None = None
    seed_cross_entropies: list[float] | None = None
    seed_dims: list[int] | None = None
    reproducibility: float | None = None
    cross_entropies: dict[str, float] | None = None


@dataclass(frozen=True)
class PeopleFit:
    """A fitted model of people.

    Attributes:
        posterior: of the objects' vectors; without spread where the model is a point.
        facts: figures of the fit; None where nothing was fitted.
        curve: how far more answers would help; None where it was not asked for, or there are too few answers.
    """

    posterior: Posterior
    facts: FitFacts | None
    curve: LearningCurve | None


def inputs(cfg: Config) -> JsonObject:
    """The settings that change a fit."""
    fields = cfg.soften.result_fields()
    # Only where they are not the defaults: fits of before are what they were.
    if cfg.soften.model == VICE:
        del fields["model"]
    if not cfg.soften.forecast:
        del fields["forecast"]
    return fields


def estimate(cfg: Config) -> str:
    """Number and length of the fits."""
    soften = cfg.soften
    text = f"{soften.seeds} fits of at most {soften.steps:,} steps"
    if soften.model == AUTO or soften.forecast:
        text += ", and fits to parts of the answers"
    return text


def fit(work: Work, given: Answers, count: int) -> PeopleFit:
    """Fit the model of people that the settings name, or that predicts held-out answers best.

    Args:
        work: of `soften`.
        given: the answers.
        count: number of objects.
    """
    soften = work.cfg.soften
    answers = _AnswerSet(given)
    model: str = soften.model

    # Held-out answers serve two ends: to choose between models, and to say what more answers would bring.
    trial = None
    if soften.model == AUTO or soften.forecast:
        if len(answers) >= learning_curve.MIN_ANSWERS:
            trial = _Trial(work, answers, count)
        else:
            work.warn(
                f"{len(answers)} answers are too few to hold some out (from {learning_curve.MIN_ANSWERS} on): models "
                "of people are not compared, and nothing is said about more answers"
            )

    if model == AUTO:
        # Of too few answers to compare, the model with the stronger prior makes more.
        model = TRACE_NORM
        if trial:
            model = trial.best()
    curve = None
    if trial and soften.forecast:
        curve = trial.curve(model)

    if model == VICE:
        posterior, facts = _fit_vice(work, given, count)
    else:
        posterior = _trace_norm(answers.rows(np.arange(len(answers))), count, work.cfg)
        facts = FitFacts(TRACE_NORM, [], stable=True)
    if trial and trial.cross_entropies:
        facts = replace(facts, cross_entropies=trial.cross_entropies)
    return PeopleFit(posterior, facts, curve)


class _AnswerSet:
    """All single answers, responses first, to take parts of."""

    def __init__(self, given: Answers) -> None:
        self.triplets = given.triplets
        self.votes = single_answers(given.comparisons)

    def __len__(self) -> int:
        return len(self.triplets) + len(self.votes)

    def rows(self, numbers: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, "t 3"], Int64[np.ndarray, "c 3"]]:
        """Responses and comparisons with these numbers."""
        is_response = numbers < len(self.triplets)
        return self.triplets[numbers[is_response]], self.votes[numbers[~is_response] - len(self.triplets)]


class _Trial:
    """Fits to parts of the answers, and their predictions of the other answers.

    Attributes:
        cross_entropies: of every model that was compared, on held-out answers; empty before `best`.
    """

    def __init__(self, work: Work, answers: _AnswerSet, count: int) -> None:
        self.cross_entropies: dict[str, float] = {}
        self._work = work
        self._answers = answers
        self._count = count
        self._divisions = learning_curve.divisions(len(answers), work.cfg.seed)
        # Which held-out answers a model predicted when it saw all others.
        self._hits: dict[str, Bool[np.ndarray, " t"]] = {}

    def best(self) -> str:
        """The model that predicts held-out answers best, by cross-entropy; one line on the screen says so."""
        models = (VICE, TRACE_NORM)
        with self._work.screen.progress(len(models) * len(self._divisions), "trial fits") as bar:
            for model in models:
                self._measure(model, bar)
        best = min(models, key=lambda model: self.cross_entropies[model])
        found = ", ".join(
            f"{model} {self._hits[model].mean():.1%} ({self.cross_entropies[model]:.3f} nats)" for model in models
        )
        self._work.screen.line(f"   held-out answers predicted: {found}; taken: {best}")
        return best

    def curve(self, model: str) -> LearningCurve:
        """Accuracy by the number of answers, and what more of them are expected to bring."""
        sizes = learning_curve.sizes(len(self._divisions[0].fitted))
        smaller = sizes[:-1]
        wanted = len(sizes)
        if model in self._hits:
            wanted = len(smaller)
        with self._work.screen.progress(wanted * len(self._divisions), "fits to some of the answers") as bar:
            rows = [_hits(self._predictions(model, size, bar)) for size in smaller]
            if model not in self._hits:
                self._measure(model, bar)
        hits = np.stack([*rows, self._hits[model]])

        answers = len(self._answers)
        forecasts = [learning_curve.forecast(hits, sizes, more) for more in (learning_curve.MORE, answers)]
        return LearningCurve(model, hits.shape[1], learning_curve.points(hits, sizes), forecasts)

    def _measure(self, model: str, bar: Progress) -> None:
        """Fit to all but the held-out answers."""
        found = self._predictions(model, len(self._divisions[0].fitted), bar)
        self._hits[model] = _hits(found)
        self.cross_entropies[model] = float(np.mean([part.cross_entropy for part in found]))

    def _predictions(self, model: str, size: int, bar: Progress) -> list[vice.Predictions]:
        """Held-out answers of every division, as a model predicts them that saw `size` of the others."""
        cfg = self._work.cfg
        found = []
        for division in self._divisions:
            fitted = self._answers.rows(division.fitted[:size])
            tested = self._answers.rows(division.tested)

            if model == VICE:
                posterior = _vice(fitted, self._count, cfg)
            else:
                posterior = _trace_norm(fitted, self._count, cfg)

            found.append(vice.predict(*posterior, *tested, cfg.soften.num_samples, cfg.seed))
            bar.add(1)
        return found


def _hits(found: Sequence[vice.Predictions]) -> Bool[np.ndarray, " t"]:
    """Which held-out answers were predicted, one division after the other."""
    return np.concatenate([part.is_hit for part in found])


def _vice(answers: Sequence[Int64[np.ndarray, "_ 3"]], count: int, cfg: Config) -> Posterior:
    """A fit of VICE to some of the answers."""
    triplets, votes = answers
    schedule = cfg.soften.settings(vice.Schedule)
    prior = cfg.soften.settings(vice.Prior)
    fitted = vice.fit(triplets, count, schedule, prior, cfg.seed, None, gpu.best_device(), votes)
    return Posterior(fitted.mu, fitted.sigma)


def _trace_norm(answers: Sequence[Int64[np.ndarray, "_ 3"]], count: int, cfg: Config) -> Posterior:
    """A fit of the trace-norm model: its mode, which predicts better than the mean over its posterior."""
    triplets, votes = answers
    dims = min(cfg.soften.dims, trace_norm.DIMS)
    fitted = trace_norm.fit(AnswerRows(triplets, votes), count, cfg.seed, dims=dims)
    return Posterior(fitted.mean, np.zeros_like(fitted.mean))


def _chance_cross_entropy(given: Answers) -> float:
    """Mean cross-entropy of blind guessing: three pairs compete in a response, two in a comparison."""
    responses = len(given.triplets)
    votes = given.comparisons.answers
    return -(responses * math.log(scores.CHANCE) + votes * math.log(comparisons.CHANCE)) / max(responses + votes, 1)


def _fit_vice(work: Work, given: Answers, count: int) -> tuple[Posterior, FitFacts]:
    """Fit the variational model, with one seed in this process or with several as Ray tasks."""
    soften = work.cfg.soften
    schedule = soften.settings(vice.Schedule)
    prior = soften.settings(vice.Prior)
    if soften.seeds > 1:
        fitted, facts = _fit_seeds(work, given, count, schedule, prior)
    else:
        fitted = _fit_here(work, given, count, schedule, prior)
        facts = FitFacts(VICE, fitted.history, fitted.stable)

    if not facts.stable:
        work.warn("the fit may not have converged, as its last counts of dimensions differ: raise --soften.steps")

    # With too strong a prior, or too few answers, VICE prunes nearly all dimensions.
    dims = int(fitted.history[-1]["dims"])
    limit = COLLAPSED * _chance_cross_entropy(given)
    if dims < 4 <= soften.dims and fitted.history[-1]["cross_entropy"] > limit:
        work.warn(
            f"the fit collapsed to {dims} significant dimensions and says little: give more answers, take the model "
            "for few answers (--soften.model trace_norm), or weaken the prior (--soften.spike, --soften.kl-anneal)"
        )
    return Posterior(fitted.mu, fitted.sigma), facts


def _fit_here(work: Work, given: Answers, count: int, schedule: vice.Schedule, prior: vice.Prior) -> vice.Fit:
    """One fit, with a progress bar."""
    votes = single_answers(given.comparisons)
    with work.screen.progress(schedule.steps, "steps") as bar:

        def report(step: int, cross_entropy: float, dims: int) -> None:
            bar.add(step - bar.done, f"cross-entropy {cross_entropy:.4f}, {dims} dimensions")
            _log_point(work, step, cross_entropy, dims)

        return vice.fit(given.triplets, count, schedule, prior, work.cfg.seed, report, gpu.best_device(), votes)


def log_history(work: Work, facts: FitFacts) -> None:
    """Log the curve of a fit that was made earlier."""
    for row in facts.history:
        _log_point(work, int(row["step"]), row["cross_entropy"], row["dims"])


def _log_point(work: Work, step: int, cross_entropy: float, dims: float) -> None:
    work.tracker.log_curve({"cross_entropy": cross_entropy, "dimensions": dims}, step)


def _fit_seeds(
    work: Work, given: Answers, count: int, schedule: vice.Schedule, prior: vice.Prior
) -> tuple[vice.Fit, FitFacts]:
    """Fits from several seeds: the one with the lowest final cross-entropy, and how far the others agree with it."""
    import ray

    # The base seed is among them, so that one seed and several start alike.
    seeds = range(work.cfg.seed, work.cfg.seed + work.cfg.soften.seeds)
    gpus = cluster_nodes.cluster_resources().gpus
    device = "cpu"
    if gpus:
        device = "cuda"
    # The fits share the GPUs; the responses lie once in the object store.
    remote_fit = ray.remote(vice.fit)
    gpus_per_fit = min(1.0, gpus / len(seeds))
    rows = ray.put(given.triplets)
    votes = ray.put(single_answers(given.comparisons))
    tasks = []
    for seed in seeds:
        named = remote_fit.options(num_gpus=gpus_per_fit, name=f"{work.node.name}: fit from seed {seed}")
        tasks.append(named.remote(rows, count, schedule, prior, seed, None, device, votes))

    with work.screen.progress(len(tasks), "fits") as bar:
        waiting = list(tasks)
        while waiting:
            done, waiting = ray.wait(waiting)
            bar.add(len(done))

    fits: list[vice.Fit] = ray.get(tasks)
    cross_entropies = [fit.history[-1]["cross_entropy"] for fit in fits]
    best = int(np.argmin(cross_entropies))
    others = [fit.mu for number, fit in enumerate(fits) if number != best]
    facts = FitFacts(
        model=VICE,
        history=fits[best].history,
        stable=fits[best].stable,
        best_seed=seeds[best],
        seed_cross_entropies=cross_entropies,
        seed_dims=[fit.mu.shape[1] for fit in fits],
        reproducibility=vice.reproducibility(fits[best].mu, others),
    )
    return fits[best], facts
