from alignet_ray.config import Config
from alignet_ray.stages.small_work import START_SECONDS, stays_here


def test_what_takes_longer_than_starting_processes_goes_to_ray() -> None:
    assert stays_here(Config(), START_SECONDS / 2)
    assert not stays_here(Config(), START_SECONDS)
    assert not stays_here(Config().replace(ray__force=True), 0)
