"""Validate models in Flax NNX on images read by tf.data.

    python tf_nnx_validate.py DATA --model tf_efficientnet_b0_ns
    python tf_nnx_validate.py DATA --model 'pt_efficientnet_*' --results-file results.csv
    python tf_nnx_validate.py DATA --checkpoint output/train/best

DATA is a folder of class folders, the parent of such a validation folder, or a TFDS folder (--dataset NAME:SPLIT).
"""

import sys

from jeffnet.validate import main

if __name__ == '__main__':
    sys.exit(main('nnx', 'tf'))
