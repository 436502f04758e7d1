"""Sources: from what the caller names to a file on this machine."""

import re
from pathlib import Path

HUB = re.compile(r'hf-hub:(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?')


def locate(weights: str | Path) -> Path:
    """The local path of `weights`: a path, or `hf-hub:owner/repo[@revision]`, downloaded or found in the cache."""
    if isinstance(weights, str) and weights.startswith('hf-hub:'):
        match = HUB.fullmatch(weights)
        if not match:
            raise ValueError(f'weights={weights!r}: expected hf-hub:owner/repo or hf-hub:owner/repo@revision')
        return from_hub(match['repo'], match['revision'])
    return Path(weights).expanduser()


def from_hub(repo: str, revision: str | None = None) -> Path:
    """Downloads `model.safetensors` of a Hugging Face repository, or finds it in the cache.

    The hub library's own settings apply (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN). Raises ConnectionError with
    what to do when the file cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, 'model.safetensors', revision=revision, library_name='jeffnet'))
    except Exception as error:  # the hub library raises a dozen kinds, of several libraries, for one fact
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConnectionError(
            f'could not get model.safetensors of {repo} from the Hugging Face hub ({cause}). Offline, download the '
            'file elsewhere and pass weights=<path>, or copy the hub cache and set HF_HOME'
        ) from error
