"""Vectors of pictures, kept by the pictures' content: a page that is opened again embeds only what is new."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from alignet_ray.data.files import replacing, writing_tensors
from alignet_ray.demo.compare import ModelComparison, Vectors, joined

MAX_KEPT = 20_000
"""Pictures in a file, at most, the latest ones: some 10 kB each."""

DIGESTS = "digests"
"""Name of the pictures' hashes in the file; the other arrays are named after the fields of `Vectors`."""

DIGEST_BYTES = 16


def digest_of(data: bytes) -> bytes:
    """Hash of a picture's bytes."""
    return hashlib.sha256(data).digest()[:DIGEST_BYTES]


def models_digest(comparison: ModelComparison) -> str:
    """Hash of both networks' weights and the size of their input: other ones have other vectors."""
    found = hashlib.sha256()
    for network in (comparison.base, comparison.student):
        found.update(f"{network.backbone.size} {network.tau}".encode())
        for name, tensor in network.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class KnownPictures:
    """Vectors of pictures by their content, in one file for each pair of models.

    Attributes:
        file: where they are kept; None: nowhere.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Read what is kept; a file that cannot be read is as good as none, as all can be computed again."""
        self.file = file
        self._vectors: Vectors | None = None
        self._row_of: dict[bytes, int] = {}
        if file is None:
            return

        try:
            arrays = safetensors.numpy.load_file(file)
            digests = arrays[DIGESTS]
            vectors = Vectors(arrays["base"], arrays["student"], arrays.get("head"))
        except (OSError, ValueError, KeyError, safetensors.SafetensorError):
            return

        # A file of an earlier form may have fewer vectors than pictures.
        parts = [part for part in vectors if part is not None]
        if any(len(part) != len(digests) for part in parts):
            return

        self._vectors = vectors
        self._row_of = {row.tobytes(): number for number, row in enumerate(digests)}

    @classmethod
    def of(cls, comparison: ModelComparison, folder: Path | None) -> "KnownPictures":
        """What is kept in a folder for a pair of models; None: nothing is kept."""
        if folder is None:
            return cls()
        return cls(folder / f"demo-{models_digest(comparison)}.safetensors")

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._row_of

    def take(self, digests: Sequence[bytes]) -> Vectors:
        """Vectors of pictures that are known, in this order.

        Raises:
            KeyError: one of them is not.
        """
        rows = np.array([self._row_of[digest] for digest in digests], dtype=np.int64)
        if self._vectors is None:
            raise KeyError("no picture is known")
        return self._vectors.take(rows)

    def add(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        """Remember pictures."""
        # A picture may be there twice, under two names.
        first = {digest: position for position, digest in reversed(list(enumerate(digests)))}
        new = sorted(position for digest, position in first.items() if digest not in self._row_of)
        if not new:
            return
        parts = [vectors.take(new)]
        if self._vectors is not None:
            parts.insert(0, self._vectors)
        self._vectors = joined(parts)
        for position in new:
            self._row_of[digests[position]] = len(self._row_of)

    def save(self) -> None:
        """Write the file.

        Raises:
            OSError: it cannot be written.
        """
        if self.file is None or self._vectors is None:
            return
        latest = slice(-MAX_KEPT, None)
        vectors = self._vectors.take(latest)
        digests = np.frombuffer(b"".join(self._row_of), np.uint8).reshape(-1, DIGEST_BYTES)[latest]
        arrays = {DIGESTS: digests, "base": vectors.base, "student": vectors.student}
        if vectors.head is not None:
            arrays["head"] = vectors.head
        # safetensors writes memory as it lies, so rows must come first.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as draft, writing_tensors(draft):
            safetensors.numpy.save_file(arrays, draft)
