"""The register artifact: which version of which registered model the student became, and its model card."""

from dataclasses import asdict, dataclass
from pathlib import Path

from alignet_ray.artifacts.base import ArtifactView

VERSION = "version.json"
CARD = "card.md"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in MLflow's model registry.

    Attributes:
        name: registered model.
        version: its number, as MLflow writes it.
        aliases: aliases that it got.
        model: `models:/NAME@ALIAS`, which `alignet_ray.load` takes.
        model_id: MLflow's logged model behind the version, which holds its scores.
    """

    name: str
    version: str
    aliases: list[str]
    model: str
    model_id: str


@dataclass(frozen=True)
class RegisterArtifact(ArtifactView):
    """A registered student."""

    def version(self) -> RegisteredVersion:
        """The version that was registered."""
        return RegisteredVersion(**self.files.read_json(VERSION))

    def write_version(self, version: RegisteredVersion) -> None:
        """Write the version that was registered."""
        self.draft.write_json(VERSION, asdict(version))

    def write_card(self, text: str) -> Path:
        """Write the model card; its local path."""
        # MLflow logs a file, so the card is wanted as one.
        self.draft.write_bytes(CARD, text.encode())
        return self.draft.local(CARD)
