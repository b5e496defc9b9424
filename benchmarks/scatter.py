"""Named dots on two axes, as an SVG."""

from collections.abc import Mapping
from html import escape

WIDTH, HEIGHT, MARGIN = 760, 460, 60


def scatter(dots: Mapping[str, tuple[float, float]], x_name: str, y_name: str) -> str:
    """Each dot beside its name; the axes reach from the least to the largest value."""
    xs, ys = zip(*dots.values(), strict=True)
    parts = [
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text x="{MARGIN}" y="24">{escape(y_name)}</text>',
        f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}" fill="none" stroke="black"/>',
    ]
    for value in (min(xs), max(xs)):
        parts.append(f'<text x="{_across(value, xs):.1f}" y="{HEIGHT - 38}" text-anchor="middle">{value:.2f}</text>')
    for value in (min(ys), max(ys)):
        parts.append(f'<text x="{MARGIN - 6}" y="{_up(value, ys):.1f}" text-anchor="end">{value:.2f}</text>')
    for name, (x, y) in dots.items():
        left, top = _across(x, xs), _up(y, ys)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4"/>')
        parts.append(f'<text x="{left + 7:.1f}" y="{top + 4:.1f}">{escape(name)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def _across(value: float, all_values: tuple[float, ...]) -> float:
    return MARGIN + 20 + _share(value, all_values) * (WIDTH - 3 * MARGIN - 20)


def _up(value: float, all_values: tuple[float, ...]) -> float:
    return HEIGHT - MARGIN - 20 - _share(value, all_values) * (HEIGHT - 2 * MARGIN - 20)


def _share(value: float, all_values: tuple[float, ...]) -> float:
    least, largest = min(all_values), max(all_values)
    return (value - least) / (largest - least) if largest > least else 0.5
