"""PyTorch's files: a state dict, alone or inside a training checkpoint, read by torch without running what it holds."""

import argparse
import re
import threading
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jeffnet.weights.stored import StoredArray

_loading = threading.Lock()  # what torch is told to allow, and to be quiet about, holds for the whole process

# Where training scripts put the weights, averaged ones first: timm, torchvision, Lightning, and plain habit.
AVERAGED = ('state_dict_ema', 'model_ema', 'ema_state_dict')
USUAL = ('state_dict', 'model', 'model_state_dict')


def read(path: Path, use_ema: bool = True) -> dict[str, StoredArray]:
    """The tensors of a file by name, mapped into memory rather than read where the format allows it.

    Raises ValueError for a damaged file and for a pickle that holds anything but tensors and plain values, and
    ModuleNotFoundError without torch.
    """
    content = _load(path)
    keys = (*AVERAGED, *USUAL) if use_ema else USUAL
    state = next((content[key] for key in keys if _is_state(content.get(key))), content)
    arrays = {str(name): _stored(path, str(name), value) for name, value in state.items() if _is_tensor(value)}
    if not arrays:
        known = ', '.join(map(str, list(content)[:6])) or 'nothing'
        raise ValueError(f'{path} holds no state dict (it holds {known}); save model.state_dict() and give that')
    return arrays


def holds_average(path: Path) -> bool:
    """Whether a file holds an averaged state dict."""
    content = _load(path)
    return any(_is_state(content.get(key)) for key in AVERAGED)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path} needs PyTorch: pip install 'jeffnet[torch]', or give a .safetensors file"
        ) from error
    import pickle

    archive = zipfile.is_zipfile(path)  # since torch 1.6; before that a bare pickle
    if archive and any(name.endswith('/constants.pkl') for name in zipfile.ZipFile(path).namelist()):
        raise ValueError(f'{path} is a TorchScript program, not weights; save its state_dict() and give that')
    try:
        damaged = zipfile.ZipFile(path).testzip() if archive else None  # torch itself skips the checksums
        if damaged is not None:
            raise ValueError(f'{path} is damaged (bad checksum of {damaged}); fetch or write it again')
        # timm's train script stores its arguments in a Namespace, which has nothing to run.
        with _loading, torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of odd pickles: what matters about them is an error here
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from error
    except Exception as error:  # a damaged pickle can end anywhere, with any error
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f'{path} is not a complete PyTorch file ({cause}); fetch or write it again') from error
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()')
    return content


def _refusal(path: Path, reason: str) -> str:
    """What to tell of a pickle that torch refuses: which function it wanted to call, if it says so."""
    wanted = re.search(r'GLOBAL ([\w.]+)', reason) or re.search(r'[Uu]nsupported[^\n.]*', reason)
    if wanted and reason.find('Unsupported operand') < 0:
        cause = f'it wants {wanted[wanted.lastindex or 0]}, and loading that could run code'
        return (
            f'{path} is refused: {cause}; load it where you trust it, and save model.state_dict() as .safetensors '
            '(safetensors.torch.save_file)'
        )
    cause = re.sub(r'\s+', ' ', reason.rpartition('\n')[2] or reason).strip()[:120]
    return f'{path} is not a complete PyTorch file ({cause}); fetch or write it again'


def _types() -> dict[Any, Any]:
    """NumPy's type of each of torch's that a state dict may hold."""
    import torch

    names = ('float64', 'float32', 'float16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
    return {torch.bfloat16: ml_dtypes.bfloat16, **{getattr(torch, name): name for name in names}}


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(_is_tensor(v) for v in value.values())


def _stored(path: Path, name: str, tensor: Any) -> StoredArray:
    import torch

    types = _types()
    if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f'{path}: {name} is a quantised, sparse or empty tensor, which jeffnet does not read')
    if tensor.dtype not in types:
        raise ValueError(f'{path}: {name} holds {tensor.dtype} values; jeffnet reads floating-point weights only')

    def values() -> np.ndarray:
        plain = tensor.detach().resolve_neg().resolve_conj()
        if tensor.dtype == torch.bfloat16:  # which NumPy knows only from ml_dtypes
            return plain.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return plain.numpy()

    return StoredArray(tuple(tensor.shape), np.dtype(types[tensor.dtype]), values)
