"""Deals questions to people: a few ahead, so that nobody waits, in the order of a plan of their own."""

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from alignet_ray.ask.sampler import Objects, PlannedKind, RandomSampler, plan_places, repeat_of
from alignet_ray.ask.study_file import Kind, NewTrial, StudyFile, Trial

AHEAD = 3
"""Unanswered questions that a browser holds, whose pictures it loads while the first of them is looked at."""

ASKED = ("random", "active")
"""Kinds of questions that are asked for their answer; the others test the person."""


class Dealer:
    """Deals a study's questions.

    Attributes:
        study: the file of the study.
    """

    def __init__(self, study: StudyFile, seed: int | None = None) -> None:
        """Continue where the study is.

        Args:
            study: the file of the study.
            seed: of all choices; None: from the system, as people must not be able to tell what comes.
        """
        self.study = study
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(seed)
        self._images_of: list[list[int]] = [[] for _ in study.objects()]
        self._object_of: dict[int, int] = {}
        for image in study.images():
            self._images_of[image.object].append(image.image)
            self._object_of[image.image] = image.object

        before = [self._objects(images) for images in study.shown_images()]
        self._sampler = RandomSampler(
            len(self._images_of), int(self._rng.integers(2**31)), before, mode=study.settings.mode
        )
        self._informative: deque[Objects] = deque()

    def offer(self, questions: Iterable[Objects]) -> None:
        """Take informative questions, the best first, in place of those that were offered before."""
        with self._lock:
            self._informative = deque(questions)

    def ahead(self, person: int) -> list[Trial]:
        """A person's next questions, at most `AHEAD`; fewer at the end, none when all are answered.

        Raises:
            NotSaved: the disk is full.
        """
        settings = self.study.settings
        # One person after the other: two must not get the same question.
        with self._lock:
            waiting = self.study.open_trials(person)
            if len(waiting) >= AHEAD:
                return waiting[:AHEAD]

            dealt = self.study.trials_of(person)
            plan = plan_places(settings.trials, settings.catch, settings.repeats, person)
            while len(waiting) < AHEAD and len(dealt) < settings.trials:
                question = self._question(plan[len(dealt)], len(dealt), dealt)
                # Counted once it is on the disk: a question that could not be stored may be drawn again.
                (trial,) = self.study.deal(person, [question])
                if trial.kind in ASKED:
                    self._sampler.count(self._objects(trial.images))
                waiting.append(trial)
                dealt.append(trial)
            return waiting

    def _question(self, planned: PlannedKind, place: int, dealt: list[Trial]) -> NewTrial:
        """The question at a place."""
        if planned == "catch":
            return self._catch()
        if planned == "repeat":
            done = {trial.repeats for trial in dealt}
            candidates = [trial for trial in dealt if trial.kind in ASKED and trial.trial not in done]
            earlier = repeat_of([trial.place for trial in candidates], place, self._rng)
            if earlier is not None:
                source = dealt[earlier]
                return NewTrial(source.mode, "repeat", self._arranged(source.images), repeats=source.trial)

        kind, objects = self._new_objects(dealt)
        first, second, third = (int(self._rng.choice(self._images_of[number])) for number in objects)
        return NewTrial(self.study.settings.mode, kind, self._arranged((first, second, third)))

    def _new_objects(self, dealt: list[Trial]) -> tuple[Kind, Objects]:
        """The objects of a question that was not asked yet, and how they were chosen."""
        wants_random = self._rng.random() < self.study.settings.random_share
        while self._informative and not wants_random:
            objects = self._informative.popleft()
            if self._sampler.is_new(objects):
                return "active", objects
        own = [self._objects(trial.images) for trial in dealt if trial.kind in ASKED]
        return "random", self._sampler.draw(own)

    def _catch(self) -> NewTrial:
        """A question with an obvious answer: the same image twice, and an image of another object."""
        same, other = self._rng.choice(len(self._images_of), 2, replace=False).tolist()
        twice = int(self._rng.choice(self._images_of[same]))
        odd = int(self._rng.choice(self._images_of[other]))
        images = self._arranged((twice, twice, odd))
        if self.study.settings.mode == "odd":
            return NewTrial("odd", "catch", images, expected=images.index(odd))
        # The first of the two is the reference, the second the candidate that is more like it.
        return NewTrial("reference", "catch", images, expected=images.index(twice, 1))

    def _arranged(self, images: tuple[int, int, int]) -> tuple[int, int, int]:
        """The images in the random order in which they are shown; a reference stays the first."""
        if self.study.settings.mode == "odd":
            first, second, third = self._rng.permutation(images).tolist()
            return first, second, third
        second, third = self._rng.permutation(images[1:]).tolist()
        return images[0], second, third

    def _objects(self, images: tuple[int, int, int]) -> Objects:
        return self._object_of[images[0]], self._object_of[images[1]], self._object_of[images[2]]
