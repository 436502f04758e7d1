"""An HTML report of a validation run: one file, without scripts, that needs nothing beside it."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from PIL import Image

from jeffnet.validate import charts
from jeffnet.validate.charts import EMPTY, bar, data_url, document, figure, said, table
from jeffnet.validate.outcome import Outcome

BINS = 15  # of the calibration, as Guo et al. 2017
THUMBNAILS = 24
FEW = 20  # rows of a list; the whole list is one click away

# Title, key of the row, format; a column that no model has a value for is left out.
COLUMNS: list[tuple[str, str, str]] = [
    ('top-1, %', 'top1', '.2f'), ('published', 'published_top1', '.2f'), ('difference', 'difference', '+.2f'),
    ('top-5, %', 'top5', '.2f'), ('loss', 'loss', '.4f'), ('ECE, %', 'ece', '.2f'),
    ('images/s', 'images_per_second', ',.1f'), ('params, M', 'param_count', '.2f'), ('size', 'img_size', ''),
    ('images', 'images', ',.0f'), ('skipped', 'skipped', ',.0f'), ('seconds', 'seconds', ',.1f'),
    ('framework', 'framework', ''), ('reader', 'pipeline', ''), ('dtype', 'dtype', ''),
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Entry:
    """One validated model: its row of the results file, its answers, and how to name and see the images."""

    row: dict[str, Any]  # any key may be missing or None
    outcome: Outcome
    classes: list[str]  # names by label of the data; the model may know more
    image: Callable[[int], Image.Image | None]  # by the index in the set
    name: Callable[[int], str]
    preprocessing: str  # one line

    @cached_property
    def figures(self) -> 'Figures':
        """What the report says of the outcome."""
        return Figures.of(self.outcome, len(self.classes))

    @cached_property
    def values(self) -> dict[str, Any]:
        """The row, with what it lacks taken from the outcome."""
        return {**self.figures.summary(self.outcome), **{k: v for k, v in self.row.items() if v is not None}}

    @cached_property
    def details(self) -> str:
        """The model's part of the page; kept, since the page is written again after each model."""
        return details(self)

    @property
    def ran(self) -> list[str]:
        """Framework, reader and type of numbers, as far as known."""
        return [str(self.values[key]) for key in ('framework', 'pipeline', 'dtype') if key in self.values]

    def class_name(self, label: int) -> str:
        """The name of a class, its number if the data lacks it, or what no answer is called."""
        if label < 0:
            return 'not a number'
        return self.classes[label] if label < len(self.classes) else f'class {label}'


@dataclass(frozen=True, eq=False)
class Figures:
    """Counts over the images that were read."""

    index: np.ndarray  # their places in the set
    label: np.ndarray
    guess: np.ndarray  # -1 for an answer that is not a number
    confidence: np.ndarray
    total: np.ndarray  # images of each class, and how many of them are right
    correct: np.ndarray
    pairs: np.ndarray  # [:, 3] true class, predicted class, images
    bins: np.ndarray  # [BINS, 3] images, mean confidence, accuracy

    @classmethod
    def of(cls, outcome: Outcome, classes: int) -> 'Figures':
        """Counts the answers."""
        index = np.flatnonzero(outcome.read)
        label, guess = outcome.label[index].astype(np.int64), outcome.top[index, 0].astype(np.int64)
        confidence, right = outcome.confidence[index].astype(np.float64), label == guess
        span = int(guess.max(initial=0)) + 2  # guesses from -1 on; a square matrix of 20,000 classes would not fit
        keys, count = np.unique(label * span + guess + 1, return_counts=True)
        return cls(
            index, label, guess, confidence,
            total=np.bincount(label, minlength=classes), correct=np.bincount(label[right], minlength=classes),
            pairs=np.stack([keys // span, keys % span - 1, count], 1), bins=calibration(confidence, right),
        )  # fmt: skip

    @property
    def share(self) -> np.ndarray:
        """Accuracy of each class, NaN for one without images."""
        return np.where(self.total > 0, self.correct / np.maximum(self.total, 1), np.nan)

    @property
    def ece(self) -> float:
        """The expected calibration error, from 0 to 1; NaN without images."""
        images = self.bins[:, 0]
        return float(images @ abs(self.bins[:, 1] - self.bins[:, 2]) / images.sum()) if images.any() else math.nan

    def summary(self, outcome: Outcome) -> dict[str, Any]:
        """The keys of a row that follow from the answers; accuracies are percent."""
        return {**outcome.figures(), 'skipped': len(outcome) - len(self.index), 'ece': self.ece * 100}


def calibration(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Images, mean confidence and accuracy for each of the equal bins (low, high] of Guo et al."""
    known = np.isfinite(confidence)
    confidence, right = confidence[known], right[known]
    place = np.clip(np.digitize(confidence, np.arange(BINS + 1) / BINS, right=True) - 1, 0, BINS - 1)
    count, sure, hits = (np.bincount(place, w, BINS) for w in (None, confidence, right))
    return np.stack([count, sure / np.maximum(count, 1), hits / np.maximum(count, 1)], 1)


def write_report(folder: Path, entries: list[Entry]) -> Path:
    """Writes `index.html`, replacing an earlier one at once, and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / 'index.html', folder / f'.index.{os.getpid()}.part'
    try:
        part.write_text(page(entries), encoding='utf-8', errors='replace')  # file names need not be valid UTF-8
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def page(entries: list[Entry]) -> str:
    """The whole document."""
    sections = ''.join(
        f'<section class="model" id="model-{n}" aria-labelledby="name-{n}"><h2 id="name-{n}">{model(entry)}</h2>'
        f'{entry.details}</section>\n'
        for n, entry in enumerate(entries, 1)
    )
    return document('Validation report', overview(entries) + sections)


def model(entry: Entry) -> str:
    """The name of the model, safe for HTML."""
    return escape(str(entry.values.get('model', 'model without a name')))


def overview(entries: list[Entry]) -> str:
    """Accuracy and throughput of all models, as a table and as a chart."""
    if not entries:
        return '<p>No model has been validated yet.</p>'
    columns = [c for c in COLUMNS if any(said(entry.values.get(c[1]), '') != EMPTY for entry in entries)]
    rows = [
        [f'<a href="#model-{n}">{model(entry)}</a>', *(said(entry.values.get(key), spec) for _, key, spec in columns)]
        for n, entry in enumerate(entries, 1)
    ]
    heads = [('model', 'name'), *((title, 'n' if spec else '') for title, _, spec in columns)]
    found = f'<div class="overview">{table(heads, rows, "Accuracy and throughput")}</div>'
    points = [(point_name(entry, entries), *place) for entry in entries if (place := speed_and_accuracy(entry))]
    if len(points) < 2:
        return found
    caption = (
        'Top-1 accuracy against throughput. The dashed line joins models that no other beats in both. '
        'Under the pointer, a dot says its name and figures.'
    )
    return found + '<h3>Accuracy and speed</h3>' + figure(charts.scatter(points), caption)


def speed_and_accuracy(entry: Entry) -> tuple[float, float] | None:
    """Where the model lies in the chart, if both are known."""
    speed, accuracy = (entry.values.get(key) for key in ('images_per_second', 'top1'))
    if not isinstance(speed, int | float) or not isinstance(accuracy, int | float):
        return None
    return (speed, accuracy) if 0 < speed < math.inf and math.isfinite(accuracy) else None


def point_name(entry: Entry, entries: list[Entry]) -> str:
    """What the chart calls a model: also how it ran, where the name stands for several runs."""
    model = str(entry.values.get('model', ''))
    alone = sum(str(other.values.get('model', '')) == model for other in entries) == 1
    return model if alone else ' '.join([model, *entry.ran])


def details(entry: Entry) -> str:
    """All that is known of one model."""
    head = f'<p class="soft">{escape(" · ".join([*entry.ran, entry.preprocessing]))}</p>'
    figures = entry.figures
    if not len(figures.index):
        return head + f'<p>None of the {len(entry.outcome):,} images could be read, so there is nothing to show.</p>'
    parts = [head, key_figures(entry), '<div class="columns">', confusion(entry), confused(entry), '</div>']
    parts += [class_accuracy(entry), errors(entry), calibration_curve(figures)]
    return '\n'.join(parts)


def key_figures(entry: Entry) -> str:
    """The figures that one looks for first."""
    images, right = len(entry.figures.index), int(entry.figures.correct.sum())
    low, high = interval(right, images)
    values = entry.values
    facts = [
        ('top-1', f'{said(values["top1"], ".2f")} % <small>95 % interval {low:.2f} to {high:.2f}</small>'),
        ('top-5', f'{said(values["top5"], ".2f")} %'), ('loss', said(values['loss'], '.4f')),
        ('calibration error', f'{said(values["ece"], ".2f")} %'), ('images', said(values['images'], ',.0f')),
        ('wrong', f'{images - right:,}'), ('skipped', said(values['skipped'], ',.0f')),
    ]  # fmt: skip
    return '<dl>' + ''.join(f'<div><dt>{title}</dt><dd>{value}</dd></div>' for title, value in facts) + '</dl>'


def interval(right: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, in percent."""
    z, share = 1.96, right / images
    middle, scale = share + z * z / (2 * images), 100 / (1 + z * z / images)
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return max(scale * (middle - half), 0), min(scale * (middle + half), 100)


def confusion(entry: Entry) -> str:
    """The confusion matrix."""
    classes, (true, predicted, count) = len(entry.classes), entry.figures.pairs.T
    beyond = (predicted < 0) | (predicted >= classes)
    # All answers that are no class of the data share a column, so their counts add up.
    keys, place = np.unique(true * (classes + 1) + np.where(beyond, classes, predicted), return_inverse=True)
    true, predicted, count = keys // (classes + 1), keys % (classes + 1), np.bincount(place, count).astype(int)
    drawing = charts.confusion_matrix(true, predicted, count, count / entry.figures.total[true], entry.classes)
    caption = 'Rows are true classes, columns predicted ones; the shade is the share of the row.'
    block = -(-classes // charts.MOST_CELLS)
    if block > 1:
        caption += f' A cell stands for {block} &times; {block} classes and shows the largest share among them.'
    if beyond.any():
        caption += ' The last column holds predictions that are no class of the data.'
    return f'<div><h3>Confusion matrix</h3>{figure(drawing, caption)}</div>'


def confused(entry: Entry) -> str:
    """The pairs of classes that are confused most often."""
    pairs = entry.figures.pairs
    wrong = pairs[pairs[:, 0] != pairs[:, 1]]
    share = wrong[:, 2] / entry.figures.total[wrong[:, 0]]
    order = np.lexsort([wrong[:, 1], wrong[:, 0], -share, -wrong[:, 2]])[:FEW]
    rows = [
        [name(entry, true), name(entry, guess), f'{count:,}', f'{100 * part:.1f}']
        for (true, guess, count), part in zip(wrong[order].tolist(), share[order].tolist(), strict=True)
    ]
    heads = [('true class', 'name'), ('predicted', 'name'), ('images', 'n'), ('% of class', 'n')]
    found = (
        table(heads, rows, f'{len(rows)} of {len(wrong):,} confused pairs') if rows else '<p>There are no errors.</p>'
    )
    return f'<div><h3>Most frequent confusions</h3>{found}</div>'


def class_accuracy(entry: Entry) -> str:
    """Accuracy of each class that has images, the worst first."""
    figures, share = entry.figures, entry.figures.share
    order = [label for label in np.argsort(share, kind='stable').tolist() if figures.total[label]]
    rows = [
        [
            f'{label}',
            name(entry, label),
            f'{figures.total[label]:,}',
            f'{figures.correct[label]:,}',
            bar(float(share[label])),
        ]
        for label in order
    ]
    heads = [('label', 'n'), ('class', 'name'), ('images', 'n'), ('right', 'n'), ('accuracy, %', 'n bar')]
    absent = len(entry.classes) - len(order)
    note = f'The mean over classes (balanced accuracy) is {100 * share[order].mean():.2f} %.'
    note += f' {absent:,} of {len(entry.classes):,} classes have no images here.' if absent else ''
    parts = [f'<h3>Accuracy by class</h3><p class="soft">{note}</p>']
    if len(order) > FEW / 2:
        counts = np.histogram(100 * share[order], 20, (0, 100))[0]
        parts.append(
            figure(charts.histogram(counts, 'accuracy of the class, %', 'classes'), 'Classes in 20 bins of accuracy.')
        )
    if len(order) <= 2 * FEW:
        return ''.join([*parts, table(heads, rows, 'All classes, the worst first')])
    worst, best = table(heads, rows[:FEW], f'The {FEW} worst'), table(heads, rows[: -FEW - 1 : -1], f'The {FEW} best')
    parts.append(f'<div class="columns">{worst}{best}</div>')
    parts.append(
        f'<details><summary>All {len(order):,} classes</summary>{table(heads, rows, "The worst first")}</details>'
    )
    return ''.join(parts)


def errors(entry: Entry) -> str:
    """The wrong answers that the model was surest of, as pictures."""
    figures = entry.figures
    wrong = np.flatnonzero((figures.label != figures.guess) & np.isfinite(figures.confidence))
    order = wrong[np.argsort(-figures.confidence[wrong], kind='stable')][:THUMBNAILS]
    pictures = [
        f'<figure>{thumbnail(entry, int(figures.index[n]))}<figcaption>'
        f'predicted <b>{name(entry, figures.guess[n])}</b>, {100 * figures.confidence[n]:.1f}&nbsp;%<br>'
        f'true <b>{name(entry, figures.label[n])}</b>'
        f'<span class="file">{path(entry, figures.index[n])}</span></figcaption></figure>'
        for n in order.tolist()
    ]
    note = f'The {len(order)} wrong answers with the highest confidence, of {len(wrong):,}.'
    found = f'<p class="soft">{note}</p><div class="thumbs">{"".join(pictures)}</div>'
    return '<h3>Most confident errors</h3>' + (found if pictures else '<p>There are no errors.</p>')


def path(entry: Entry, index: SupportsInt) -> str:
    """The file name, which breaks after a slash if it can."""
    return escape(entry.name(int(index))).replace('/', '/<wbr>')


def thumbnail(entry: Entry, index: int) -> str:
    """A small picture, or a box that says there is none."""
    try:
        picture = entry.image(index)
        url = None if picture is None else data_url(picture)
    except Exception:  # whatever is wrong with a picture, it must not cost the run its report
        url = None
    if url is None:
        return '<div class="missing">cannot be shown</div>'
    return f'<img src="{url}" alt="{escape(entry.name(index))}">'


def calibration_curve(figures: Figures) -> str:
    """The reliability diagram, with its bins as a table."""
    caption = (
        f'Images in {BINS} bins of confidence. <span class="key right"></span> reaches up to the accuracy, the heavy '
        'line; <span class="key off"></span> is what lies between it and the mean confidence. '
        'On the dashed line a model is as often right as it is sure.'
    )
    rows = []
    for n, (count, sure, right) in enumerate(figures.bins.tolist()):
        shown = [(sure, '.2f'), (right, '.2f'), (right - sure, '+.2f')]
        cells = [said(100 * value, spec) if count else EMPTY for value, spec in shown]
        rows.append([f'{100 * n / BINS:.1f} to {100 * (n + 1) / BINS:.1f}', f'{count:,.0f}', *cells])
    heads = [('confidence, %', 'n'), ('images', 'n'), ('mean, %', 'n'), ('accuracy, %', 'n'), ('difference', 'n')]
    note = f'Expected calibration error {said(figures.ece * 100, ".2f")} % (Guo et al. 2017).'
    drawing = figure(charts.reliability(figures.bins), caption)
    columns = f'<div class="columns">{drawing}<div>{table(heads, rows, "Bins of confidence")}</div></div>'
    return f'<h3>Calibration</h3><p class="soft">{note}</p>{columns}'


def name(entry: Entry, label: SupportsInt) -> str:
    """The name of a class, safe for HTML."""
    return escape(entry.class_name(int(label)))
