"""What a report page is made of, as text: the frame, charts (SVG), tables, small pictures."""

import base64
import io
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jeffnet.data.images import to_colours

WIDTH = 440  # of every chart in its own units: text of 11 units stays readable on a telephone
MOST_NAMED = 24  # classes that the axes of a confusion matrix name; more get numbers
MOST_COUNTED = 10  # classes whose cells have room for a number
MOST_CELLS = 250  # a side of the confusion matrix; more classes share cells
UPRIGHT = 19  # the width of a column below which slanting names would overlap
LEVELS = 20  # shades of the confusion matrix
THUMBNAIL_SIDE = 160  # pixels
EMPTY = '\N{EN DASH}'  # in the place of a value


@dataclass(frozen=True)
class Scale:
    """Where a value lies on an axis, linear or logarithmic."""

    low: float
    high: float
    start: float  # the place of `low`, and of `high`
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values that leave room for their labels."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / min(max(abs(self.end - self.start) / 45, 2), 5)
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
            values = [
                step * n for n in range(math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6) + 1)
            ]
        return [value for value in values if self.low * 0.9999 <= value <= self.high * 1.0001]


def document(title: str, body: str) -> str:
    """A page of its own, which asks for nothing from anywhere."""
    style = Path(__file__).with_name('report.css').read_text(encoding='utf-8')
    now = datetime.now(UTC)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<main>
{body}</main>
<footer>Written by jeffnet on <time datetime="{now:%Y-%m-%dT%H:%MZ}">{now:%Y-%m-%d %H:%M} UTC</time></footer>
</body>
</html>
"""


def short(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis for what is left out."""
    return text if len(text) <= most else text[: most - 1] + '…'


def svg(height: float, body: str, label: str) -> str:
    """A chart with a description for those who cannot see it."""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'


def text(x: float, y: float, content: str, anchor: str = 'middle', extra: str = '') -> str:
    """A line of text around, from or up to a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def box(kind: str, left: float, top: float, right: float, bottom: float, title: str) -> str:
    """A rectangle of this CSS class that says `title` under the pointer."""
    size = f'x="{left:.2f}" y="{top:.2f}" width="{right - left:.2f}" height="{max(bottom - top, 0):.2f}"'
    return f'<rect class="{kind}" {size}><title>{escape(title)}</title></rect>'


def upright(x: float, y: float, content: str) -> str:
    """The title of a vertical axis."""
    return text(x, y, content, extra=f'class="axis" transform="rotate(-90 {x:.1f} {y:.1f})"')


def frame(x: Scale, y: Scale, x_title: str, y_title: str, x_labels: bool = True) -> str:
    """Grid, tick labels and titles of both axes."""
    parts = []
    for value in y.ticks():
        parts.append(f'<path class="grid" d="M{x.start:.1f} {y(value):.1f}H{x.end:.1f}"/>')
        parts.append(text(x.start - 6, y(value) + 4, f'{value:,.6g}', 'end'))
    for value in x.ticks():
        parts.append(f'<path class="grid" d="M{x(value):.1f} {y.start:.1f}V{y.end:.1f}"/>')
        if x_labels:
            parts.append(text(x(value), y.start + 16, f'{value:,.6g}'))
    parts.append(f'<path class="line" d="M{x.start:.1f} {y.start:.1f}H{x.end:.1f}"/>')
    parts.append(text((x.start + x.end) / 2, y.start + 34, x_title, extra='class="axis"') if x_labels else '')
    parts.append(upright(11, (y.start + y.end) / 2, y_title))
    return ''.join(parts)


def scatter(points: list[tuple[str, float, float]]) -> str:
    """Speed and accuracy of models, given as (name, images/s, top-1); a line joins those that none beats in both."""
    speeds, accuracies = [point[1] for point in points], [point[2] for point in points]
    log = max(speeds) / min(speeds) > 8
    pad = max((max(accuracies) - min(accuracies)) * 0.15, 0.05)
    x = Scale(min(speeds) / 1.3, max(speeds) * 1.3, 52, WIDTH - 10, True) if log else Scale(
        0, max(speeds) * 1.15, 52, WIDTH - 10
    )  # fmt: skip
    y = Scale(max(min(accuracies) - pad, 0), min(max(accuracies) + pad, 100.01), 270, 12)
    body = [frame(x, y, f'images per second{", logarithmic" if log else ""}', 'top-1, %')]
    best = [p for p in points if not any(q[1] >= p[1] and q[2] >= p[2] and q[1:] != p[1:] for q in points)]
    steps = ' '.join(f'{x(speed):.1f},{y(accuracy):.1f}' for _, speed, accuracy in sorted(best, key=lambda p: p[1]))
    body.append(f'<polyline class="front" points="{steps}"/>')
    dots = [(x(speed), y(accuracy)) for _, speed, accuracy in points]
    for (name, speed, accuracy), (across, down) in zip(points, dots, strict=True):
        title = escape(f'{name}: {speed:,.1f} images/s, top-1 {accuracy:.2f} %')
        body.append(f'<circle class="dot" cx="{across:.1f}" cy="{down:.1f}" r="4.5"><title>{title}</title></circle>')
    body += place_labels([short(point[0], 30) for point in points], dots)
    return svg(312, ''.join(body), f'Top-1 accuracy against images per second of {len(points)} models')


def place_labels(names: list[str], dots: list[tuple[float, float]]) -> list[str]:
    """Each name beside, above or below its dot; a name without room is left out, the table has it."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    parts = []
    for name, (x, y) in zip(names, dots, strict=True):
        wide = 6.6 * len(name)  # an estimate, on the safe side for most fonts
        for anchor, start, at, base in (
            ('start', x + 8, x + 8, y + 4),
            ('end', x - 8 - wide, x - 8, y + 4),
            ('middle', x - wide / 2, x, y - 9),
            ('middle', x - wide / 2, x, y + 17),
        ):
            area = (start, base - 9, start + wide, base + 2)
            free = all(area[2] < t[0] or t[2] < area[0] or area[3] < t[1] or t[3] < area[1] for t in taken)
            if free and start >= 52 and start + wide <= WIDTH:
                taken.append(area)
                parts.append(text(at, base, name, anchor))
                break
    return parts


def histogram(counts: np.ndarray, x_title: str, y_title: str) -> str:
    """Counts over equal bins from 0 to 100 %."""
    x, y = Scale(0, 100, 52, WIDTH - 10), Scale(0, max(int(counts.max()), 5), 200, 10)
    width = 100 / len(counts)
    bars = ''
    for n, count in enumerate(counts.tolist()):
        title = f'{n * width:g} to {(n + 1) * width:g} %: {count:,}'
        bars += box('bar', x(n * width) + 0.5, y(count), x((n + 1) * width) - 0.5, y(0), title)
    return svg(242, frame(x, y, x_title, y_title) + bars, f'Histogram: {y_title} by {x_title}')


def reliability(bins: np.ndarray) -> str:
    """Accuracy by confidence over equal bins, rows of (images, mean confidence, accuracy), and how many lie in each."""
    x, y = Scale(0, 100, 52, WIDTH - 10), Scale(0, 100, 300, 10)
    many = Scale(0, max(bins[:, 0].max(), 5), 400, 322)
    body = [frame(x, y, '', 'accuracy, %', x_labels=False), frame(x, many, 'confidence, %', 'images')]
    for n, (count, confidence, accuracy) in enumerate((bins * (1, 100, 100)).tolist()):
        if not count:
            continue
        left, right = x(n * 100 / len(bins)) + 0.5, x((n + 1) * 100 / len(bins)) - 0.5
        title = f'{count:,.0f} images, confidence {confidence:.1f} %, accuracy {accuracy:.1f} %'
        body.append(box('bar', left, y(accuracy), right, y(0), title))
        body.append(box('gap', left, y(max(confidence, accuracy)), right, y(min(confidence, accuracy)), title))
        body.append(f'<path class="mark" d="M{left:.2f} {y(accuracy):.2f}H{right:.2f}"/>')
        body.append(box('bar', left, many(count), right, many(0), title))
    body.append(f'<path class="ideal" d="M{x(0)} {y(0)}L{x(100)} {y(100)}"/>')
    return svg(440, ''.join(body), 'Reliability diagram: accuracy by confidence, and images by confidence')


def confusion_matrix(
    true: np.ndarray, predicted: np.ndarray, count: np.ndarray, share: np.ndarray, names: list[str]
) -> str:
    """Shares of true classes (rows) by predicted class; the prediction `len(names)` is drawn as the column `other`."""
    other = bool((predicted == len(names)).any())
    block = -(-len(names) // MOST_CELLS)
    side = -(-len(names) // block)
    grid = np.zeros((side, side + other))
    np.maximum.at(grid, (true // block, np.where(predicted < len(names), predicted // block, side)), share)
    named = [short(name, 16) for name in names] if len(names) <= MOST_NAMED else []
    left = 24 + 6.9 * max(map(len, named), default=4)
    unit = min((WIDTH - left - 10) / (side + other), 72)
    bottom = 8 + side * unit
    body = shades(grid, left, 8, unit)
    body += cell_texts(true, predicted, count, share, left, unit) if len(names) <= MOST_COUNTED else ''
    if named:
        body += named_axes([*named, *['other'] * other], side, left, unit, bottom)
        bottom += 20 + 7 * max(map(len, named)) * (1 if unit < UPRIGHT else 0.64)
    else:
        body += numbered_axes(len(names), block, left, unit, bottom)
        bottom += 20
    right = left + unit * (side + other)
    body += upright(11, 8 + side * unit / 2, 'true class')
    body += text((left + right) / 2, bottom + 14, 'predicted class', extra='class="axis"')
    return svg(bottom + 74, body + legend(left, bottom + 30), f'Confusion matrix of {len(names)} classes')


def shades(grid: np.ndarray, left: float, top: float, unit: float) -> str:
    """A cell for each value above 0, as one path for each shade: thousands of elements would make the page slow."""
    level = np.ceil(np.sqrt(grid) * LEVELS).astype(int)
    paths = [f'<path class="sheet" d="M0 0h{grid.shape[1]}v{grid.shape[0]}H0z"/>']
    for shade in range(1, LEVELS + 1):
        cells = ''.join(f'M{x} {y}.5h1' for y, x in np.argwhere(level == shade).tolist())
        if cells:
            paths.append(f'<path d="{cells}" stroke-opacity="{shade / LEVELS:.2f}"/>')
    return f'<g class="heat" transform="translate({left:.1f} {top}) scale({unit:.4f})">{"".join(paths)}</g>'


def cell_texts(
    true: np.ndarray, predicted: np.ndarray, count: np.ndarray, share: np.ndarray, left: float, unit: float
) -> str:
    """The number of images in each cell."""
    size = min(12, unit / (0.62 * len(f'{count.max()}')))
    parts = []
    for row, column, images, part in zip(*(a.tolist() for a in (true, predicted, count, share)), strict=True):
        kind = 'on-dark' if math.sqrt(part) > 0.55 else 'on-light'
        style = f'class="{kind}" style="font-size:{size:.1f}px"'
        parts.append(text(left + (column + 0.5) * unit, 8 + (row + 0.5) * unit + size * 0.36, f'{images}', extra=style))
    return ''.join(parts)


def named_axes(names: list[str], rows: int, left: float, unit: float, bottom: float) -> str:
    """Class names left of the rows and, slanting or upright, below the columns."""
    parts = [text(left - 6, 12 + (n + 0.5) * unit, name, 'end') for n, name in enumerate(names[:rows])]
    for n, name in enumerate(names):
        x, y, angle = left + (n + 0.5) * unit + 4, bottom + 8, -90 if unit < UPRIGHT else -40
        parts.append(text(x, y, name, 'end', f'transform="rotate({angle} {x:.1f} {y:.1f})"'))
    return ''.join(parts)


def numbered_axes(classes: int, block: int, left: float, unit: float, bottom: float) -> str:
    """Labels of classes at round numbers."""
    parts = []
    for value in Scale(0, classes - 1, 0, WIDTH).ticks():
        place = (value // block + 0.5) * unit
        parts.append(
            text(left - 6, 12 + place, f'{value:.0f}', 'end') + text(left + place, bottom + 14, f'{value:.0f}')
        )
    return ''.join(parts)


def legend(left: float, top: float) -> str:
    """The shades with the shares that they stand for."""
    wide = 12
    parts = [f'<rect class="sheet" x="{left:.1f}" y="{top:.1f}" width="{wide * LEVELS}" height="10"/>']
    for shade in range(1, LEVELS + 1):
        place = f'x="{left + wide * (shade - 1):.1f}" y="{top:.1f}" width="{wide}" height="10"'
        parts.append(f'<rect class="shade" {place} fill-opacity="{shade / LEVELS:.2f}"/>')
    for share in (0, 1, 5, 20, 50, 100):
        parts.append(text(left + wide * LEVELS * math.sqrt(share / 100), top + 23, f'{share}'))
    return ''.join(parts) + text(left, top + 39, 'share of the true class, %', 'start', 'class="axis"')


def said(value: Any, spec: str) -> str:
    """A value for a cell; a dash for none."""
    if value is None or value == '' or (isinstance(value, float | np.floating) and math.isnan(value)):
        return EMPTY
    return (
        format(value, spec).replace('-', '\N{MINUS SIGN}')
        if spec and not isinstance(value, str)
        else escape(str(value))
    )


def bar(share: float) -> str:
    """Percent, with the length of the bar that the style sheet draws below."""
    return f'<span style="--share:{100 * share:.1f}%">{100 * share:.1f}</span>'


def figure(drawing: str, caption: str) -> str:
    """A chart over its caption, which is HTML."""
    return f'<figure class="chart">{drawing}<figcaption>{caption}</figcaption></figure>'


def table(heads: list[tuple[str, str]], rows: list[list[str]], caption: str) -> str:
    """A table of HTML cells; `heads` are titles and CSS classes; a narrow window scrolls it sideways."""
    head = ''.join(f'<th scope="col" class="{kind}">{label}' for label, kind in heads)
    body = '\n'.join(
        '<tr>' + ''.join(f'<td class="{kind}">{cell}' for cell, (_, kind) in zip(row, heads, strict=True))
        for row in rows
    )
    content = f'<caption>{caption}</caption><thead><tr>{head}<tbody>{body}'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>{content}</table></div>'


def data_url(picture: Image.Image) -> str:
    """The picture within the page, at thumbnail size."""
    picture.draft('RGB', (THUMBNAIL_SIDE, THUMBNAIL_SIDE))  # a large JPEG is decoded at a fraction of its size
    small = to_colours(picture, 3)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()
