"""The table that a check of a file fills: one line a check, with a verdict and what to do about it."""

from dataclasses import dataclass, field

OK = "ok"
WARNING = "warning"
WRONG = "WRONG"
INFO = ""


@dataclass
class Findings:
    """The table of checks: name, value, verdict, and what to do about it."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, name: str, value: object, verdict: str = INFO, note: str = "") -> None:
        """Add one line."""
        self.rows.append({"check": name, "value": str(value), "verdict": verdict, "note": note})

    def check(self, name: str, value: object, passed: bool, note: str, failure: str = WRONG) -> None:
        """Add one line whose verdict is `failure` if the check did not pass; the note is shown only then."""
        if passed:
            self.add(name, value, OK)
        else:
            self.add(name, value, failure, note)

    def count(self, verdict: str) -> int:
        """Number of lines with this verdict."""
        return sum(row["verdict"] == verdict for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (warnings do not count)."""
        return self.count(WRONG) == 0
