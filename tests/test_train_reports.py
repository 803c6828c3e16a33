"""Reports of training processes on their way to the driver, and what the processes that carry them import."""

import subprocess
import sys

import pytest

from alignet_ray import train_reports


def test_reports_are_taken_once_and_in_order() -> None:
    queue = train_reports.ReportQueue()
    queue.put([{"step": 1}, {}])
    queue.put([{"step": 2}, {}])
    assert [rows[0]["step"] for rows in queue.take()] == [1, 2]
    assert queue.take() == []


@pytest.mark.usefixtures("ray_session")
def test_the_callback_fills_the_queue_of_this_node() -> None:
    import ray

    queue = train_reports.make_queue()
    forward = train_reports.ForwardReports(queue)
    forward.after_report(None, [{"step": 1}], None)
    assert ray.get(queue.take.remote()) == [[{"step": 1}]]
    ray.kill(queue)


def test_what_carries_reports_imports_no_torch() -> None:
    """Ray starts two processes for it before each training, which waits for one of them."""
    heavy = "{'torch', 'timm', 'scipy', 'sklearn', 'mlflow'}"
    code = f"import sys, alignet_ray.train_reports; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
