"""Translate weights of Keras Applications to jeffnet and back; needs h5py, and neither Keras nor TensorFlow.

python translate_keras.py --model ResNet50 --output resnet50.safetensors
python translate_keras.py --model ResNet50 --weights mine.weights.h5 --output resnet50.safetensors
python translate_keras.py --model ResNet50 --weights resnet50.safetensors --output for_keras.weights.h5
python translate_keras.py --model all --output weights/
"""

import sys

from jeffnet.weights.keras_command import main

if __name__ == '__main__':
    sys.exit(main())
