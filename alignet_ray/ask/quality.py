"""Quality of each person's answers, and the rule that leaves people out, which the researcher can overrule."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scipy.special import bdtr, bdtrc

from alignet_ray.ask.dealer import ASKED
from alignet_ray.ask.forms import FORMS
from alignet_ray.ask.study_file import Answer, Decision, Mode, Person
from alignet_ray.core.participants import FAST_MS

MIN_CATCH = 2
"""Catch trials from which on their failures say something."""

MAX_CATCH_FAILURES = 0.34
"""Share of failed catch trials above which answers are left out. Guessing fails two thirds of those with the odd one
out and half of the reference comparisons; one slip in three must be allowed in both."""

SIDE_LEVEL = 1e-6
"""Probability under fair sides below which somebody has preferred a side: no honest person of a million."""

HONEST_CONSISTENCY = 0.25
"""How often an honest person answers a hard question alike, at least: this share of the way from guessing to always.
It is a half for the odd one out, where guessing gives a third, and 62.5 % for reference comparisons."""

CONSISTENCY_LEVEL = 0.01
"""Probability under this below which somebody's repeats are too inconsistent."""


@dataclass(frozen=True)
class PersonQuality:
    """Figures of one person's answers.

    Attributes:
        mode: the form of the questions.
        answers: number of answers, catch trials and repeats included.
        median_rt: median response time in milliseconds; None without one.
        side: position that was chosen most often.
        side_share: share of answers with this position.
        repeats: questions that were answered twice.
        consistent: those of them with the same answer.
        catch: catch trials answered.
        catch_failed: those of them with a wrong answer.
    """

    mode: Mode
    answers: int
    median_rt: float | None
    side: int
    side_share: float
    repeats: int
    consistent: int
    catch: int
    catch_failed: int

    @property
    def consistency(self) -> float | None:
        """Share of repeated questions with the same answer; None without any."""
        if not self.repeats:
            return None
        return self.consistent / self.repeats

    @property
    def side_label(self) -> int:
        """The number that people saw on the side that they chose most often."""
        return FORMS[self.mode].label(self.side)


def measure(answers: Sequence[Answer]) -> PersonQuality:
    """The figures of one person's answers, which are all of the same form."""
    mode: Mode = "odd"
    if answers:
        mode = answers[0].mode
    times = [answer.rt for answer in answers if answer.rt is not None]
    median_rt = None
    if times:
        median_rt = float(median(times))

    # Where the obvious answer was is no choice of the person's: catch trials say nothing about sides.
    sides: Counter[int] = Counter()
    catch = 0
    catch_failed = 0
    for answer in answers:
        if answer.kind == "catch":
            catch += 1
            catch_failed += answer.choice != answer.expected
        else:
            sides[answer.choice] += 1
    side, count = max(sides.items(), key=lambda item: (item[1], -item[0]), default=(FORMS[mode].positions[0], 0))

    pairs = _repeated(answers)
    return PersonQuality(
        mode=mode,
        answers=len(answers),
        median_rt=median_rt,
        side=side,
        side_share=count / max(sides.total(), 1),
        repeats=len(pairs),
        consistent=sum(_chosen(first) == _chosen(second) for first, second in pairs),
        catch=catch,
        catch_failed=catch_failed,
    )


def _repeated(answers: Iterable[Answer]) -> list[tuple[Answer, Answer]]:
    """Answers to a question and to its repetition."""
    by_trial = {answer.trial: answer for answer in answers}
    return [(by_trial[again.repeats], again) for again in by_trial.values() if again.repeats in by_trial]


def _chosen(answer: Answer) -> int:
    """The image that was chosen; its position differs between a question and its repetition."""
    return answer.images[answer.choice]


def reasons(quality: PersonQuality) -> list[str]:
    """Why the rule leaves a person out, in words; empty if it does not."""
    found = []
    if quality.catch >= MIN_CATCH and quality.catch_failed / quality.catch > MAX_CATCH_FAILURES:
        found.append(f"{quality.catch_failed} of {quality.catch} obvious questions answered wrongly")
    if quality.median_rt is not None and quality.median_rt < FAST_MS:
        found.append(f"median response time {quality.median_rt:.0f} ms")

    form = FORMS[quality.mode]
    free = quality.answers - quality.catch
    chosen = round(quality.side_share * free)
    # Each of the sides could be the preferred one.
    if free and len(form.positions) * bdtrc(chosen - 1, free, form.chance) < SIDE_LEVEL:
        found.append(f"{quality.side_share:.0%} of answers are picture {quality.side_label}")
    honest = form.chance + HONEST_CONSISTENCY * (1 - form.chance)
    if quality.repeats and bdtr(quality.consistent, quality.repeats, honest) < CONSISTENCY_LEVEL:
        found.append(f"{quality.consistent} of {quality.repeats} repeated questions answered alike")
    return found


@dataclass(frozen=True)
class Review:
    """A person's figures, and whether the answers count.

    Attributes:
        person: who it is.
        quality: the figures.
        reasons: why the rule would leave this person out; empty if it would not.
    """

    person: Person
    quality: PersonQuality
    reasons: list[str]

    @property
    def counts(self) -> bool:
        """Whether the answers are used: the researcher's decision, or else the rule's."""
        decision: Decision = self.person.decision
        if decision:
            return decision == "keep"
        return not self.reasons


def review(people: Iterable[Person], answers: Iterable[Answer]) -> list[Review]:
    """The figures of everybody."""
    of_person: Mapping[int, list[Answer]] = _by_person(answers)
    reviews = []
    for person in people:
        quality = measure(of_person.get(person.person, []))
        reviews.append(Review(person, quality, reasons(quality)))
    return reviews


def _by_person(answers: Iterable[Answer]) -> dict[int, list[Answer]]:
    groups: dict[int, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.person].append(answer)
    return groups


def counted(people: Iterable[Person], answers: Sequence[Answer]) -> list[Answer]:
    """Answers that say something about the images: of people who are not left out, without catch trials and repeats."""
    kept = {entry.person.person for entry in review(people, answers) if entry.counts}
    return [answer for answer in answers if answer.person in kept and answer.kind in ASKED]
