"""Imports what an image is for, in the order given, and prints the versions: python docker/smoke.py jax tensorflow"""

import importlib
import sys

for name in sys.argv[1:]:
    module = importlib.import_module(name)
    print(f'{name:<20} {getattr(module, "__version__", "-"):<28} {module.__file__}', flush=True)
