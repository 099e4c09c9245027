"""Bar charts as SVG text, readable on light and dark pages."""

from html import escape

from .results import Row

LABELS = {"direct": "PostgreSQL direct", "pgbouncer": "PgBouncer", "pgweir": "pgweir"}

STYLE = """
  .page { fill: #ffffff } .ink { fill: #1f2328 } .dim { fill: #59636e } .line { stroke: #d1d9e0 }
  .direct { fill: #afb8c1 } .pgbouncer { fill: #d4843e } .pgweir { fill: #1f6feb }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .ink { fill: #e6edf3 } .dim { fill: #9198a1 } .line { stroke: #3d444d }
    .direct { fill: #6e7681 } .pgbouncer { fill: #e39a57 } .pgweir { fill: #58a6ff }
  }
  text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
  .title { font-size: 16px; font-weight: 600 } .value { font-size: 12px }
"""

WIDTH, LEFT, RIGHT = 860, 240, 130
BAR, GAP, TOP = 15, 14, 78


def bar_chart(title: str, subtitle: str, rows: list[Row], targets: list[str], measure: str, scale: float, digits: int) -> str | None:
    """Horizontal bars, a group for each row and a bar for each target that has a figure; None when nobody has."""
    groups = []
    for row in rows:
        bars = [(target, row.median(target, measure)) for target in targets]
        bars = [(target, value * scale) for target, value in bars if value is not None]
        if bars:
            groups.append((row, bars))
    if not groups:
        return None
    longest = max(value for _, bars in groups for _, value in bars) or 1
    body, y = [], TOP
    for row, bars in groups:
        middle = y + BAR * len(bars) / 2 + 4
        body.append(f'<text class="ink" x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(row.title)}</text>')
        for target, value in bars:
            width = value / longest * (WIDTH - LEFT - RIGHT)
            body.append(f'<rect class="{target}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" rx="2"/>')
            body.append(f'<text class="dim value" x="{LEFT + width + 6:.1f}" y="{y + BAR - 4}">{label(row, target, value, measure, digits)}</text>')
            y += BAR
        y += GAP
    body.insert(0, f'<line class="line" x1="{LEFT}" x2="{LEFT}" y1="{TOP - 6}" y2="{y - GAP + 6}"/>')
    return frame(title, subtitle, legend(targets) + body, y)


def label(row: Row, target: str, value: float, measure: str, digits: int) -> str:
    """The number at the end of a bar; pgweir's with its ratio to PgBouncer."""
    text = f"{value:,.{digits}f}"
    paired = row.ratio("pgweir", "pgbouncer", measure) if target == "pgweir" else None
    return text if paired is None else f"{text}  (×{paired[0]:.2f})"


def legend(targets: list[str]) -> list[str]:
    """Coloured squares with names."""
    found, x = [], LEFT
    for target in targets:
        found.append(f'<rect class="{target}" x="{x}" y="50" width="11" height="11" rx="2"/>')
        found.append(f'<text class="ink" x="{x + 17}" y="60">{LABELS[target]}</text>')
        x += 40 + 8 * len(LABELS[target])
    return found


def frame(title: str, subtitle: str, body: list[str], height: float) -> str:
    """The SVG document around the bars."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    lines = [head, f"<style>{STYLE}</style>", f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="6"/>']
    lines.append(f'<text class="ink title" x="16" y="26">{escape(title)}</text>')
    lines.append(f'<text class="dim" x="{WIDTH - 16}" y="26" text-anchor="end">{escape(subtitle)}</text>')
    return "\n".join([*lines, *body, "</svg>"]) + "\n"
