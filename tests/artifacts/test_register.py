"""The registered version comes back as it was written."""

from alignet_ray.artifacts.register import RegisterArtifact, RegisteredVersion
from alignet_ray.store import Store


def test_the_registered_version_comes_back(store: Store) -> None:
    view = RegisterArtifact(store.draft("register", "r"))
    version = RegisteredVersion("student", "3", ["candidate"], "models:/student@candidate", "m-2")
    view.write_version(version)
    assert view.version() == version
