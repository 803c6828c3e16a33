from pathlib import Path

import pytest

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages import embed_jobs


def test_every_job_is_found_by_its_name() -> None:
    cfg = Config().replace(evaluate__models=("random:test_vit",), evaluate__ood="folder")
    for job in (*embed_jobs.teacher_jobs(cfg), *embed_jobs.evaluation_jobs(cfg)):
        assert embed_jobs.find_job(cfg, job.name) == job


def test_a_fine_tuned_teacher_gives_its_head_and_the_control_keeps_the_untuned_one() -> None:
    cfg = Config().replace(align__map="network")
    jobs = {job.name: job for job in embed_jobs.teacher_jobs(cfg)}
    assert jobs["corpus"].parents == ("align",)
    assert jobs["corpus"].head == "instead"
    assert jobs["raw"].models == cfg.embed.model
    assert "raw" not in {job.name for job in embed_jobs.teacher_jobs(cfg.replace(distill__control=False))}


def test_models_of_one_last_name_have_jobs_of_different_names(tmp_path: Path) -> None:
    names = {embed_jobs.extra_job(model).name for model in (f"{tmp_path}/a/student", f"{tmp_path}/b/student")}
    assert len(names) == 2
    assert all(name.startswith("student-") for name in names)


def test_no_image_folder_is_told() -> None:
    with pytest.raises(UserError, match=r"--corpus\.path"):
        embed_jobs.image_root(Config(), "objects")
