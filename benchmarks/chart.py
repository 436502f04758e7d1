"""Published accuracy against measured speed, as a picture: a point for each network and side."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from jeffnet import model_info

# Sides by name, with colours that people with any colour vision tell apart (Okabe & Ito, 2008).
COLOURS = {
    'jeffnet linen': '#0072B2', 'timm compiled': '#D55E00', 'timm': '#E69F00', 'keras tensorflow': '#009E73',
    'keras jax': '#CC79A7', 'plain flax': '#666666',
}  # fmt: skip


def draw(path: Path, rows: list[dict[str, Any]], batch: int) -> None:
    """Draws the rows of the default allocator at one batch size: top-1 on ImageNet against images per second."""
    chosen = [row for row in rows if row['allocator'] == 'default' and row['batch'] == batch]
    points = {(row['model'], row['side']): row['images_per_second'] for row in chosen}
    with mpl.rc_context({'svg.hashsalt': 'jeffnet', 'svg.fonttype': 'none'}):  # the same file for the same rows
        figure = Figure(figsize=(8, 4.5), layout='constrained')
        axes = figure.subplots()
        for side, colour in COLOURS.items():
            own = {model: float(speed) for (model, of), speed in points.items() if of == side and speed != 'n/a'}
            if not own:
                continue
            accuracies = [model_info(f'pt_{model}').top1 for model in own]
            axes.scatter(list(own.values()), accuracies, color=colour, label=side, s=36)
        for model in dict.fromkeys(model for model, _ in points):
            fastest = max(float(speed) for (of, _), speed in points.items() if of == model and speed != 'n/a')
            place = (fastest, model_info(f'pt_{model}').top1)
            axes.annotate(model, place, xytext=(6, 4), textcoords='offset points', fontsize=8)
        axes.set(xscale='log', xlabel=f'images/s, batch {batch}, float32', ylabel='published top-1, %')
        axes.margins(x=0.25)
        axes.grid(alpha=0.3)
        axes.legend(loc='lower left', fontsize=8)
        figure.savefig(path, metadata={'Date': None})
