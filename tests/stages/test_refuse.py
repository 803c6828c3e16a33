"""What is known to fail is refused before the first minute: by the form of files, and by shapes alone."""

from pathlib import Path

import numpy as np
import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.models.backbone import check_model
from alignet_ray.stages import distill, embed, evaluate


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("random:test_vit", 64),
        ("random:test_vit", None),
        ("random:test_efficientnet", 33),
        ("pip:efficientnet-lite0", 128),
    ],
)
def test_sizes_that_a_network_takes(name: str, size: int | None) -> None:
    check_model(name, size)


@pytest.mark.parametrize(("name", "size"), [("random:test_vit", 63), ("random:convnext_tiny", 17)])
def test_a_size_that_a_network_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(UserError, match=rf"model {name} takes no images of {size} px: ") as caught:
        check_model(name, size)
    assert "\n" not in str(caught.value)


def test_teacher_and_student_are_checked_before_anything_starts(tmp_path: Path) -> None:
    cfg = Config().replace(corpus__path=str(tmp_path), distill__model="random:test_vit")
    cfg = cfg.replace(embed__model=("random:test_vit",), embed__size=63)
    with pytest.raises(UserError, match="takes no images of 63 px"):
        embed.refuse(cfg, "corpus")
    with pytest.raises(UserError, match="takes no images of 50 px"):
        distill.refuse(cfg.replace(distill__size=50), "student")


@pytest.mark.parametrize(
    ("field", "name", "content", "says"),
    [
        ("answers", "a.csv", b"image0,image1,image2,choice\na.jpg,b.jpg,c.jpg,4\n", "choice 4 is not a position"),
        ("answers", "a.csv", b"x,y\n1,2\n", "no columns image1"),
        ("choices", "c.csv", b"ref_path,left_path\na,b\n", "no column 'right_path'"),
        ("matrix", "m.csv", b"1,2\n3\n", "holds no matrix"),
        ("matrix", "m.mat", b"not a matrix", "holds no matrix"),
    ],
)
def test_files_of_the_evaluation_are_read_before_the_training(
    tmp_path: Path, field: str, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    cfg = Config().replace(**{f"evaluate__{field}": str(tmp_path / name)})
    with pytest.raises(UserError, match=says):
        evaluate.refuse(cfg, "")


def test_sound_files_of_the_evaluation_pass(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("reference,image1,image2,choice\na.jpg,b.jpg,c.jpg,3\n")
    np.save(tmp_path / "m.npy", np.eye(4))
    files = {"evaluate__answers": str(tmp_path / "a.csv"), "evaluate__matrix": str(tmp_path / "m.npy")}
    evaluate.refuse(Config().replace(**files, evaluate__columns=("image0=reference",)), "")
    with pytest.raises(UserError, match="is not OURS=THEIRS"):
        evaluate.refuse(Config().replace(**files, evaluate__columns=("image0",)), "")
