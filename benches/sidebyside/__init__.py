"""The side-by-side benchmark behind `benches/compare`. Standard library only."""
