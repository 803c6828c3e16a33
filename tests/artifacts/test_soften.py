"""What people said comes back as it was written."""

import numpy as np
import pyarrow as pa

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.soften import Posterior, SoftenArtifact
from alignet_ray.store import Store


def test_images_of_held_out_objects_are_held_out_even_if_they_show_a_training_object(store: Store) -> None:
    view = SoftenArtifact(store.draft("soften", "s"))
    columns = [[0, 1, 2], ["", "", ""], ["", "", ""], ["train", "validation", "test"], [[5, 1], [1], [7]]]
    view.write_objects(pa.table(columns, schema=schemas.OBJECTS))
    assert view.held_out_image_ids().tolist() == [1, 7]
    assert view.annotated_image_ids().tolist() == [1, 5, 7]


def test_the_posterior_and_the_responses_come_back(store: Store) -> None:
    view = SoftenArtifact(store.draft("soften", "s"))
    posterior = Posterior(np.arange(6, dtype=np.float32).reshape(2, 3).T, np.zeros((3, 2), np.float32))
    view.write_posterior(posterior)
    np.testing.assert_array_equal(view.posterior().mu, posterior.mu)
    responses = np.array([[0, 1, 2], [2, 1, 0]])
    view.write_soft_responses(0, responses, np.full((2, 3), 1 / 3, np.float32))
    np.testing.assert_array_equal(view.responses(), responses)
