from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_files import write_tar
from support.judgement_sets import write_images

from alignet_ray.images.listing import list_images
from alignet_ray.images.overlap import Overlap, Source, shared_images


def source(folder: Path) -> Source:
    return Source(str(folder), list_images(str(folder)))


@pytest.fixture
def mine(tmp_path: Path) -> Source:
    write_images(tmp_path / "mine", [f"{number}.png" for number in range(6)])
    return source(tmp_path / "mine")


def shared(found: Overlap) -> list[int]:
    ids: list[int] = found.image_ids.tolist()
    return ids


def test_the_same_bytes_under_another_name_are_the_same_image(tmp_path: Path, mine: Source) -> None:
    corpus = tmp_path / "corpus"
    write_images(corpus, [f"class/{number}.png" for number in range(9)], seed=1)
    (corpus / "class/copy.png").write_bytes((tmp_path / "mine/4.png").read_bytes())
    (corpus / "class/again.png").write_bytes((tmp_path / "mine/4.png").read_bytes())
    objects = tmp_path / "objects"
    write_images(objects, ["own.png"], seed=2)
    (objects / "b.png").write_bytes((tmp_path / "mine/1.png").read_bytes())
    found = shared_images(mine, [source(corpus), source(objects)])
    assert shared(found) == [1, 4]
    assert found.unread == 0
    assert shared(shared_images(mine, [])) == []


def test_an_image_in_a_shard_is_compared_as_well(tmp_path: Path, mine: Source) -> None:
    write_tar(tmp_path / "corpus/train.tar", {"x.png": (tmp_path / "mine/2.png").read_bytes()})
    assert shared(shared_images(mine, [source(tmp_path / "corpus")])) == [2]


def test_equal_sizes_alone_are_not_the_same_image(tmp_path: Path) -> None:
    for folder, tint in (("mine", 10), ("corpus", 11)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), (tint, 0, 0)).save(tmp_path / folder / "a.bmp")
    first = source(tmp_path / "mine")
    second = source(tmp_path / "corpus")
    assert first.images["bytes"][0] == second.images["bytes"][0]
    assert shared(shared_images(first, [second])) == []


def test_an_image_that_is_gone_may_have_been_the_same(tmp_path: Path, mine: Source) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.png").write_bytes((tmp_path / "mine/3.png").read_bytes())
    listed = source(corpus)
    (corpus / "a.png").unlink()
    found = shared_images(mine, [listed])
    sizes = np.array(mine.images["bytes"].to_pylist())
    assert shared(found) == np.flatnonzero(sizes == sizes[3]).tolist()
    assert found.unread == 1
