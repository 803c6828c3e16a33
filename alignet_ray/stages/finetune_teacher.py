"""Fine-tune the teacher network on human choice probabilities, with Ray Train. Part of `align`."""

from alignet_ray import cluster_nodes
from alignet_ray.stages import Work
from alignet_ray.stages.ray_train import Reports, run_training


def fine_tune(work: Work) -> None:
    """Train and write the teacher, with its report.

    Raises:
        UserError: what a process said that the user can fix.
    """
    from ray.train import ScalingConfig

    from alignet_ray.stages.training_jobs import make_teacher_job
    from alignet_ray.training.teacher_worker import TeacherWorker

    settings = work.cfg.align.network
    gpus = cluster_nodes.cluster_resources().gpus
    workers = settings.workers or gpus or 2
    job = make_teacher_job(work, workers)
    scaling = ScalingConfig(num_workers=workers, use_gpu=gpus > 0)

    with work.screen.progress(settings.steps, "updates") as bar:

        def show(reports: Reports) -> None:
            # Only the main process validates, so only its reports hold figures.
            row = dict(reports[0].metrics)
            if "accuracy" not in row:
                return
            step = int(row.pop("step"))
            bar.add(step - bar.done, f"held-out accuracy {row['accuracy']:.1%}")
            work.tracker.log_curve(row, step)

        run_training(work, TeacherWorker, job, scaling, show)
