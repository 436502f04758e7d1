"""Validation: accuracy of models on labelled images, every image counted exactly once.

`main` is the command of the validate scripts; `evaluate` runs one model over batches.
"""

from jeffnet.validate.command import main as main
