"""What was measured: per row, target and round. Medians, and ratios paired within a round."""

from dataclasses import dataclass, field
from statistics import median


@dataclass
class Row:
    """One line of the comparison: a workload, or a measurement around idle clients."""

    title: str
    group: str
    samples: dict[str, list[dict | None]] = field(default_factory=dict)  # target -> one entry a round
    notes: dict[str, str] = field(default_factory=dict)  # target -> why it has no figure

    def add(self, target: str, figures: dict | None) -> None:
        """Appends the next round's figures."""
        self.samples.setdefault(target, []).append(figures)

    def values(self, target: str, measure: str) -> list[float]:
        """The rounds' values, those that exist."""
        taken = [figures.get(measure) for figures in self.samples.get(target, []) if figures]
        return [value for value in taken if value is not None]

    def median(self, target: str, measure: str) -> float | None:
        """The middle of the rounds."""
        values = self.values(target, measure)
        return median(values) if values else None

    def ratio(self, target: str, base: str, measure: str) -> tuple[float, float, float] | None:
        """target / base of the same round: (median, lowest, highest)."""
        ratios = []
        for ours, theirs in zip(self.samples.get(target, []), self.samples.get(base, [])):
            if ours and theirs and ours.get(measure) is not None and theirs.get(measure):
                ratios.append(ours[measure] / theirs[measure])
        return (median(ratios), min(ratios), max(ratios)) if ratios else None


@dataclass
class Results:
    """Everything that one run found out."""

    rows: list[Row]
    facts: dict[str, str]  # machine, versions, date, settings

    def as_dict(self) -> dict:
        """For results.json: enough to draw every table again."""
        rows = [{"title": r.title, "group": r.group, "samples": r.samples, "notes": r.notes} for r in self.rows]
        return {"facts": self.facts, "rows": rows}

    @staticmethod
    def from_dict(data: dict) -> "Results":
        """The inverse of `as_dict`."""
        return Results([Row(**row) for row in data["rows"]], data["facts"])
