import io

import numpy as np
from PIL import Image

from alignet_ray.study import plots


def test_every_model_and_fold_has_its_point() -> None:
    colours = {"base": "#ff0000", "student": "#0000ff"}
    folds = [{"base": 0.4, "student": 0.5}, {"base": 0.42, "student": 0.53}, {"base": 0.39}]
    pixels = np.asarray(Image.open(io.BytesIO(plots.agreement_by_fold(folds, colours))).convert("RGB")).astype(int)
    red = (pixels == (255, 0, 0)).all(axis=-1)
    blue = (pixels == (0, 0, 255)).all(axis=-1)
    # Points of one size: three of the base, two of the student, which one fold lacks.
    assert abs(red.sum() / blue.sum() - 1.5) < 0.1
    # The student's points lie above the base's and to their right.
    assert np.nonzero(blue)[0].mean() < np.nonzero(red)[0].mean()
    assert np.nonzero(blue)[1].min() > np.nonzero(red)[1].max()
