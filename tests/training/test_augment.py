import torch

from alignet_ray.training.augment import apply_crops, draw_crops


def test_crops_are_the_same_for_the_same_step_and_shape_preserving():
    images = torch.rand(4, 3, 16, 16)
    crops = draw_crops([0, 3], 4, 0.7)
    assert torch.equal(crops, draw_crops([0, 3], 4, 0.7))
    assert apply_crops(images, crops).shape == images.shape
    whole = torch.eye(2, 3).expand(4, 2, 3)
    assert torch.allclose(apply_crops(images, whole), images, atol=1e-5)
    corners = crops[:, :, :2].abs().sum(2) + crops[:, :, 2].abs()
    assert (corners <= 1 + 1e-6).all()  # crops stay inside the image
