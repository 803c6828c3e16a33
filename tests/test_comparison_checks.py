"""`verify` on files of reference comparisons: what is right passes, and each planted fault is named."""

from pathlib import Path

import numpy as np
import pytest

from alignet_ray import checks
from alignet_ray.errors import UserError
from alignet_ray.findings import WARNING, WRONG


@pytest.fixture
def embedding(tmp_path: Path) -> np.ndarray:
    values = np.random.default_rng(0).exponential(1, (12, 4)).astype(np.float32)
    np.save(tmp_path / "people.npy", values)
    return values


def write(folder: Path, embedding: np.ndarray, swap: bool = False, sided: bool = False) -> str:
    """300 questions with five votes each, mostly as the embedding's similarities say."""
    rng = np.random.default_rng(1)
    gram = embedding @ embedding.T
    lines = ["reference,a,b,votes_a,votes_b"]
    for _ in range(300):
        reference, a, b = rng.permutation(len(embedding))[:3]
        probability = 1 / (1 + np.exp(gram[reference, b] - gram[reference, a]))
        votes = rng.binomial(5, probability)
        if swap:
            votes = 5 - votes
        if sided and votes < 3:
            a, b, votes = b, a, 5 - votes
        lines.append(f"{reference},{a},{b},{votes},{5 - votes}")
    file = folder / "asked.csv"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def verdicts(path: str, **references: str | int) -> dict[str, str]:
    _, findings = checks.examine(path, checks.References(**references))  # type: ignore[arg-type]
    return {row["check"]: row["verdict"] for row in findings.rows}


def test_a_sound_file_passes(tmp_path: Path, embedding: np.ndarray) -> None:
    path = write(tmp_path, embedding)
    text, passed = checks.verify(path, checks.References(reference=str(tmp_path / "people.npy")))
    assert passed
    assert "reference comparisons (reference, a, b)" in text
    assert "1,500, " in text
    assert "no problems found" in text


def test_exchanged_votes_are_told_by_a_reference(tmp_path: Path, embedding: np.ndarray) -> None:
    path = write(tmp_path, embedding, swap=True)
    _, findings = checks.examine(path, checks.References(reference=str(tmp_path / "people.npy")))
    row = next(row for row in findings.rows if row["check"] == "predicted by the reference")
    assert row["verdict"] == WRONG
    assert "exchange the two columns of votes" in row["note"]


def test_sorted_columns_are_a_warning(tmp_path: Path, embedding: np.ndarray) -> None:
    assert verdicts(write(tmp_path, embedding, sided=True))["votes for a"] == WARNING
    assert verdicts(write(tmp_path, embedding))["votes for a"] != WARNING


def test_what_does_not_apply_is_refused(tmp_path: Path, embedding: np.ndarray) -> None:
    path = write(tmp_path, embedding)
    with pytest.raises(UserError, match="--against says nothing about reference comparisons"):
        verdicts(path, against=path)
    with pytest.raises(UserError, match="there are 5 objects"):
        verdicts(path, objects=5)
    named = tmp_path / "named.csv"
    named.write_text("reference,a,b,choice\ncat,dog,eel,1\n")
    with pytest.raises(UserError, match="names its objects"):
        verdicts(str(named), objects=5)
