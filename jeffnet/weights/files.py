"""File formats: what is on disk into a mapping of names to NumPy arrays, never by unpickling."""

from pathlib import Path

import numpy as np


def read(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a weights file by name, and whether the names are our flat ones (else timm's).

    Raises FileNotFoundError for a missing file and ValueError for one that cannot be read.
    """
    if path.is_dir():
        return read(_inside(path))
    if not path.is_file():
        raise FileNotFoundError(f'weights file {path} does not exist')
    if path.suffix != '.safetensors':
        raise ValueError(
            f'{path}: cannot read {path.suffix or "this"} files; give a .safetensors file or a folder with one'
        )
    import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16, which such files may hold
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            ours = (file.metadata() or {}).get('format') == 'jeffnet'
    except SafetensorError as error:
        raise ValueError(f'{path} is not a complete safetensors file ({error}); fetch or write it again') from error
    return arrays, ours


def _inside(folder: Path) -> Path:
    """The weights file of a checkpoint folder."""
    file = folder / 'model.safetensors'
    if not file.is_file():
        raise FileNotFoundError(f'{folder} holds no model.safetensors: it is not a checkpoint folder')
    return file
