"""A repository of two files for tests of the hub, and what lies in a cache after them."""

import os

import pytest

NET = 'owner/net'
FILE = 'model.safetensors'
SOURCE = f'hf-hub:{NET}'
WEIGHTS = os.urandom(20_000)
# huggingface_hub 2.4 hands a file to httpx2 by a keyword that httpx2 deprecates. Until it uses the new one.
DEPRECATED = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


def add(server, repo=NET, weights=WEIGHTS, **options):
    """Adds the repository to a server; returns the commit."""
    return server.add(repo, {'config.json': b'{"a": 1}', FILE: weights}, **options)


def files(cache):
    """What lies in a cache but for locks and the tag for backups: paths below it."""
    found = (p.relative_to(cache) for p in cache.rglob('*') if not p.is_dir() and p.suffix not in ('.lock', '.TAG'))
    return sorted(map(str, found))


def blobs(cache):
    """The contents in a cache, whole or half."""
    return [name for name in files(cache) if 'blobs/' in name]
