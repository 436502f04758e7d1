"""Validate models in Objax on images read by PyTorch's DataLoader.

    python pt_objax_validate.py DATA --model pt_efficientnet_b0
    python pt_objax_validate.py DATA --model 'tf_efficientnet_*' --results-file results.csv
    python pt_objax_validate.py DATA --checkpoint output/train/best

DATA is a folder of class folders, or the parent of such a validation folder.
"""

import sys

from jeffnet.validate import main

if __name__ == '__main__':
    sys.exit(main('objax', 'pt'))
