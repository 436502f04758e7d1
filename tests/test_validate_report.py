"""The report of a validation run: its numbers equal those of slow loops, its names cannot break it, it stands alone."""

import re
from collections import Counter
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jeffnet.validate import report
from jeffnet.validate.outcome import Outcome
from jeffnet.validate.report import Entry, write_report


class Page(HTMLParser):
    """The tables of a page by caption, as rows of texts, and every element with its attributes."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding='utf-8')
        self.elements, self.tables, self.rows, self.cell, self.caption = [], {}, [], None, None
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == 'caption':
            self.rows, self.caption, self.cell = [], '', None
        elif tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')
            self.cell = True

    def handle_endtag(self, tag):
        if tag == 'caption':
            self.tables[self.caption], self.caption = self.rows, None
        elif tag == 'table':
            self.cell = None

    def handle_data(self, data):
        if self.caption is not None:
            self.caption += data
        elif self.cell:
            self.rows[-1][-1] += data.strip('\n')

    def attributes(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def answers(classes, images, known=None, seed=0):
    """Random labels and answers, half of them right; the model may know more classes than the data has."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, images).astype(np.int32)
    guess = np.where(rng.random(images) < 0.5, label, rng.integers(0, known or classes, images))
    top = np.stack([guess, (guess + 1) % classes], 1).astype(np.int32)
    return Outcome(label, top, rng.random(images).astype(np.float32), rng.random(images).astype(np.float32))


def entry(outcome, classes=None, row=None, image=None, name=None):
    """An entry whose classes are called class-0, class-1 ... and whose images are small and red."""
    count = int(outcome.label.max(initial=0)) + 1
    return Entry(
        row={'model': 'a_model'} if row is None else row,
        outcome=outcome,
        classes=classes or [f'class-{n}' for n in range(count)],
        image=image or (lambda index: Image.new('RGB', (40, 30), 'red')),
        name=name or (lambda index: f'/data/{index}.png'),
        preprocessing='32 px',
    )


def written(tmp_path, *entries):
    return Page(write_report(tmp_path / 'new' / 'report', list(entries)))


def cells(page):
    """The numbers within the confusion matrix, row by row."""
    return [int(n) for n in re.findall(r'class="on-(?:dark|light)"[^>]*>(\d+)</text>', page.source)]


def heat(page):
    """The shades of the confusion matrix by (row, column)."""
    paths = re.findall(r'<path d="([^"]*)" stroke-opacity="([^"]*)"', page.source)
    return {(int(y), int(x)): float(shade) for d, shade in paths for x, y in re.findall(r'M(\d+) (\d+)', d)}


def shades(counts, label):
    """What `heat` should find: the root of the share in the class, in twenty steps."""
    roots = {pair: (count / sum(label == pair[0])) ** 0.5 for pair, count in counts.items()}
    return {pair: round(np.ceil(20 * root) / 20, 2) for pair, root in roots.items()}


def loop_ece(outcome, bins=15):
    total = 0.0
    for n in range(bins):
        low = n / bins if n else -1  # 0 itself is in the first bin
        read = [i for i in range(len(outcome)) if outcome.label[i] >= 0]
        inside = [i for i in read if low < float(outcome.confidence[i]) <= (n + 1) / bins]
        if inside:
            right = sum(outcome.label[i] == outcome.top[i, 0] for i in inside) / len(inside)
            sure = sum(float(outcome.confidence[i]) for i in inside) / len(inside)
            total += len(inside) * abs(right - sure)
    return total / sum(outcome.label >= 0)


def test_confusion_counts_equal_a_loop(tmp_path):
    outcome = answers(4, 300)
    outcome.label[::7] = -1  # not read: nowhere in the counts
    counts = Counter((int(t), int(g)) for t, g in zip(outcome.label, outcome.top[:, 0], strict=True) if t >= 0)
    page = written(tmp_path, entry(outcome))
    assert cells(page) == [counts[pair] for pair in sorted(counts)]
    assert heat(page) == shades(counts, outcome.label)
    wrong = sorted(((n, *pair) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda t: -t[0])
    head, *rows = page.tables[f'{len(wrong)} of {len(wrong)} confused pairs']
    assert head == ['true class', 'predicted', 'images', '% of class']
    assert [int(row[2]) for row in rows] == [n for n, _, _ in wrong]
    for true, guess, count, share in rows:
        pair = int(true.removeprefix('class-')), int(guess.removeprefix('class-'))
        assert int(count) == counts[pair]
        assert share == f'{100 * counts[pair] / sum(outcome.label == pair[0]):.1f}'


def test_class_accuracy_equals_a_loop(tmp_path):
    outcome = answers(60, 3000)
    outcome.label[outcome.label == 7] = -1  # a class without images
    page = written(tmp_path, entry(outcome, [f'class-{n}' for n in range(60)]))
    _, *rows = page.tables['The worst first']
    assert len(rows) == 59
    for label, name, images, right, accuracy in rows:
        mine = outcome.label == int(label)
        hits = sum(outcome.top[mine, 0] == int(label))
        assert (name, images, right) == (f'class-{label}', str(sum(mine)), str(hits))
        assert accuracy == f'{100 * hits / sum(mine):.1f}'
    shares = [float(row[4]) for row in rows]
    assert shares == sorted(shares)
    assert page.tables['The 20 worst'][1:] == rows[:20]
    assert page.tables['The 20 best'][1:] == rows[:-21:-1]
    assert '1 of 60 classes have no images here' in page.source
    exact = [np.mean(outcome.top[outcome.label == n, 0] == n) for n in range(60) if n != 7]
    assert f'(balanced accuracy) is {100 * np.mean(exact):.2f} %' in page.source
    bars = re.findall(r'<rect class="bar"[^>]*><title>[^<]* %: (\d+)</title>', page.source)
    assert [int(n) for n in bars] == np.histogram(100 * np.array(exact), 20, (0, 100))[0].tolist()


def test_calibration_equals_a_loop(tmp_path):
    outcome = answers(3, 500)
    outcome.label[:50] = -1
    outcome.confidence[50:52] = 1.0, 0.0
    page = written(tmp_path, entry(outcome))
    expected = f'{100 * loop_ece(outcome):.2f} %'
    assert f'Expected calibration error {expected} (Guo et al. 2017).' in page.source
    assert f'<dt>calibration error</dt><dd>{expected}</dd>' in page.source
    _, *rows = page.tables['Bins of confidence']
    assert len(rows) == 15
    assert sum(int(row[1]) for row in rows) == 450
    kept = outcome.label >= 0
    last = kept & (outcome.confidence > 14 / 15)
    right = outcome.label[last] == outcome.top[last, 0]
    mean = outcome.confidence[last].mean(dtype=np.float64)
    assert rows[-1][1:4] == [f'{sum(last)}', f'{100 * mean:.2f}', f'{100 * right.mean():.2f}']


def test_what_the_row_lacks_comes_from_the_outcome(tmp_path):
    outcome = answers(4, 200)
    outcome.label[0] = -1
    row = {'model': 'bare', 'top5': None, 'published_top1': 61.5, 'difference': -11.25, 'img_size': '224x192'}
    page = written(tmp_path, entry(outcome, row=row))
    head, values = page.tables['Accuracy and throughput']
    found = dict(zip(head, values, strict=True))
    read = outcome.label >= 0
    hits = (outcome.label[:, None] == outcome.top)[read]
    assert found['top-1, %'] == f'{100 * hits[:, 0].mean():.2f}'
    assert found['top-5, %'] == f'{100 * hits.any(1).mean():.2f}'
    assert found['loss'] == f'{outcome.loss[read].mean(dtype=np.float64):.4f}'
    assert (found['images'], found['skipped'], found['size']) == ('199', '1', '224x192')
    assert (found['published'], found['difference']) == ('61.50', '\N{MINUS SIGN}11.25')
    assert 'images/s' not in found  # nothing known
    page = written(tmp_path, entry(outcome, row={**row, 'top1': 12.346, 'seconds': 1234.5}))  # the row goes first
    found = dict(zip(*page.tables['Accuracy and throughput'], strict=True))
    assert (found['top-1, %'], found['seconds']) == ('12.35', '1,234.5')
    assert '<dt>top-1</dt><dd>12.35 %' in page.source


def test_interval_is_wilsons():
    assert report.interval(90, 100) == pytest.approx((82.56, 94.48), abs=0.01)  # as statsmodels has it
    assert report.interval(10, 10) == pytest.approx((72.25, 100), abs=0.01)
    assert report.interval(0, 10) == pytest.approx((0, 27.75), abs=0.01)


def test_most_confident_errors(tmp_path):
    outcome = answers(3, 400)
    outcome.label[::5] = -1
    page = written(tmp_path, entry(outcome))
    wrong = [i for i in range(400) if outcome.label[i] >= 0 and outcome.label[i] != outcome.top[i, 0]]
    wrong.sort(key=lambda i: -outcome.confidence[i])
    assert [image['alt'] for image in page.attributes('img')] == [f'/data/{i}.png' for i in wrong[:24]]
    first = wrong[0]
    caption = (
        f'predicted <b>class-{outcome.top[first, 0]}</b>, {100 * outcome.confidence[first]:.1f}&nbsp;%<br>'
        f'true <b>class-{outcome.label[first]}</b><span class="file">/<wbr>data/<wbr>{first}.png</span>'
    )
    assert caption in page.source
    assert f'The 24 wrong answers with the highest confidence, of {len(wrong)}.' in page.source


def test_predictions_beyond_the_classes_of_the_data(tmp_path):
    outcome = answers(3, 300, known=6)
    outcome.top[0], outcome.confidence[0] = -1, np.nan  # a NaN among the logits
    outcome.label[0] = 2
    page = written(tmp_path, entry(outcome))
    guess = np.where((outcome.top[:, 0] < 0) | (outcome.top[:, 0] > 2), 3, outcome.top[:, 0])
    counts = Counter(zip(outcome.label.tolist(), guess.tolist(), strict=True))
    assert cells(page) == [counts[pair] for pair in sorted(counts)]
    assert heat(page) == shades(counts, outcome.label)
    names = {row[1] for caption, rows in page.tables.items() if 'confused pairs' in caption for row in rows[1:]}
    assert {'class 3', 'class 4', 'class 5', 'not a number'} <= names
    assert 'The last column holds predictions that are no class of the data.' in page.source
    assert sum(int(row[1]) for row in page.tables['Bins of confidence'][1:]) == 299


NASTY = ['<script>alert(1)</script>', 'a & "b" \'c\' &lt;', 'long' * 60]


def test_names_are_escaped(tmp_path):
    path = '/data/<img src=x onerror="alert(1)">&"\'/\udc80.png'  # the end is what a file name in Latin-1 becomes
    row = {'model': '<b>&"', 'framework': '<i>', 'img_size': '<u>', 'top1': '<s>'}
    page = written(tmp_path, entry(answers(3, 300), NASTY, row, name=lambda index: path))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {'script', 'i', 'u', 's'}
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith('on')]
    assert {image['alt'] for image in page.attributes('img')} == {path.replace('\udc80', '?')}
    assert {row[1] for row in page.tables['All classes, the worst first'][1:]} == set(NASTY)
    assert page.tables['Accuracy and throughput'][1][0] == '<b>&"'
    assert unescape(re.search(r'<h2[^>]*>(.*?)</h2>', page.source)[1]) == '<b>&"'


def test_the_page_stands_alone(tmp_path):
    page = written(tmp_path, entry(answers(30, 300)), entry(answers(4, 100)))
    assert not {'script', 'link', 'iframe', 'object', 'base'} & {tag for tag, _ in page.elements}
    assert all(image['src'].startswith('data:image/jpeg;base64,') for image in page.attributes('img'))
    assert all(link['href'].startswith('#') for link in page.attributes('a'))
    assert {link['href'][1:] for link in page.attributes('a')} <= {a.get('id') for _, a in page.elements}
    assert not re.search(r'https?:|url\(|@import', page.source)
    assert [file.name for file in (tmp_path / 'new' / 'report').iterdir()] == ['index.html']


def test_chart_of_two_models_or_more(tmp_path):
    outcome = answers(3, 50)
    rows = [
        {'model': 'slow', 'top1': 80.0, 'images_per_second': 10.0},
        {'model': 'fast', 'top1': 70.0, 'images_per_second': 1000.0},
        {'model': 'fast', 'top1': 60.0, 'images_per_second': 500, 'framework': 'nnx', 'dtype': 'bfloat16'},
        {'model': 'unknown', 'top1': 75.0, 'images_per_second': None},
    ]
    page = written(tmp_path, *(entry(outcome, row=row) for row in rows))
    titles = re.findall(r'<circle[^>]*><title>(.*?)</title>', page.source)
    assert titles == [
        'slow: 10.0 images/s, top-1 80.00 %',
        'fast: 1,000.0 images/s, top-1 70.00 %',
        'fast nnx bfloat16: 500.0 images/s, top-1 60.00 %',
    ]
    front = re.search(r'class="front" points="([^"]*)"', page.source)[1]
    assert len(front.split()) == 2  # the third model is beaten by the second
    assert len(page.attributes('section')) == 4
    assert '<circle' not in written(tmp_path, entry(outcome, row=rows[0]), entry(outcome, row=rows[3])).source


def test_nothing_to_show(tmp_path):
    assert 'No model has been validated yet.' in written(tmp_path).source
    page = written(tmp_path, entry(Outcome.empty(40, 3), ['a', 'b']))
    assert 'None of the 40 images could be read' in page.source
    assert not page.attributes('svg')


@pytest.mark.parametrize('classes', [1, 3, 30])
def test_no_errors(tmp_path, classes):
    outcome = answers(classes, 90)
    outcome.top[:, 0] = outcome.label
    page = written(tmp_path, entry(outcome))
    assert page.source.count('There are no errors.') == 2
    assert heat(page) == {(label, label): 1.0 for label in outcome.label.tolist()}
    assert '<dt>wrong</dt><dd>0</dd>' in page.source


def test_thumbnails_that_cannot_be_had(tmp_path):
    def image(index):
        if index % 3 == 0:
            raise OSError('no such file')
        return None if index % 3 == 1 else Image.new('RGB', (400, 30), 'blue')

    outcome = answers(3, 30)
    outcome.top[:, 0] = (outcome.label + 1) % 3
    outcome.confidence[:] = 1 - np.arange(30) / 100
    page = written(tmp_path, entry(outcome, image=image))
    assert page.source.count('cannot be shown</div>') == 16
    assert len(page.attributes('img')) == 8


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', 'I;16', '1', 'LA'])
def test_thumbnails_of_any_kind_of_image(tmp_path, mode):
    outcome = answers(2, 20)
    page = written(tmp_path, entry(outcome, image=lambda index: Image.new(mode, (300, 20))))
    assert page.attributes('img')
    assert 'cannot be shown' not in page.source


def test_thousand_classes(tmp_path):
    outcome = answers(1000, 50_000)
    page = written(tmp_path, entry(outcome))
    assert len(page.source) < 5_000_000
    pooled = {(int(t) // 4, int(g) // 4) for t, g in zip(outcome.label, outcome.top[:, 0], strict=True)}
    assert set(heat(page)) == pooled  # no error is lost where classes share cells
    assert 'A cell stands for 4 &times; 4 classes' in page.source
    assert len(page.tables['The worst first']) == 1001


def test_twenty_thousand_classes(tmp_path):
    assert write_report(tmp_path, [entry(answers(20_000, 50_000))]).stat().st_size < 5_000_000


def test_written_again_without_reading_again(tmp_path):
    reads = []
    first = entry(answers(3, 90), image=lambda index: reads.append(index))
    second = entry(answers(3, 90, seed=1))
    path = write_report(tmp_path, [first])
    assert path == tmp_path / 'index.html'
    assert len(reads) == 24
    assert len(Page(write_report(tmp_path, [first, second])).attributes('section')) == 2
    assert len(reads) == 24


def test_a_failure_leaves_the_earlier_page(tmp_path):
    path = write_report(tmp_path, [entry(answers(3, 90))])
    before = path.read_bytes()

    def name(index):
        raise RuntimeError('no name')

    with pytest.raises(RuntimeError, match='no name'):
        write_report(tmp_path, [entry(answers(3, 90), name=name)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    path.mkdir()  # so that the finished file cannot be renamed
    with pytest.raises(OSError):
        write_report(tmp_path, [])
    assert list(tmp_path.iterdir()) == [path]
