"""What the gate decides by: base and student on validation objects, never on test objects."""

from collections.abc import Callable

import numpy as np

from alignet_ray.evals import gate, suite
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.gate import Verdict
from alignet_ray.evals.spaces import EmbeddingSpace

OPTIONS = suite.SuiteOptions(image_draws=4, triplets=5_000, bootstrap=100, posterior_draws=1, shots=(1,), seed=0)

MakeObjects = Callable[..., AnnotatedObjects]
MakeSpace = Callable[..., EmbeddingSpace]


def test_a_student_that_sees_meaning_passes_on_validation_objects(
    make_annotated: MakeObjects, make_space: MakeSpace
) -> None:
    train, validation, test = (make_annotated(first=24 * part, images=4) for part in range(3))
    spaces = [
        make_space([train, validation, test], meaning, 0.3, name) for name, meaning in (("base", 0), ("student", 2))
    ]
    found = suite.validate(spaces, suite.SplitObjects(train, validation, test), OPTIONS)
    assert {score.model for score in found} <= {"base", "student", "human"}
    assert gate.decide(found).nearer is Verdict.YES
    assert gate.decide(found).kept is not Verdict.NO

    # Test objects decide nothing: without any of their images the scores are the same.
    nobody = test.take(np.empty(0, np.int64))
    again = suite.validate(spaces, suite.SplitObjects(train, validation, nobody), OPTIONS)
    assert [score.value for score in again] == [score.value for score in found]


def test_two_validation_objects_make_no_triplet(make_annotated: MakeObjects, make_space: MakeSpace) -> None:
    train, validation = make_annotated(images=2), make_annotated(objects=2, first=24, images=2)
    spaces = [make_space([train, validation], 1, 0.3, name) for name in ("base", "student")]
    found = suite.validate(spaces, suite.SplitObjects(train, validation, train), OPTIONS)
    assert found == []
    assert gate.decide(found).verdict is Verdict.CANNOT_TELL
