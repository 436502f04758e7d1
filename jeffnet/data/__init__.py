"""Reading images: preprocessing as data, class folders, the data order, and two readers with the same two functions.

`jeffnet.data.tf` reads with tf.data, `jeffnet.data.pt` with PyTorch's DataLoader and Pillow. Neither is imported here:
a process loads only the reader it uses, since TensorFlow followed by torchvision aborts the process.
"""

from jeffnet.data.folder import ClassFolder as ClassFolder
from jeffnet.data.folder import DataError as DataError
from jeffnet.data.preprocessing import Augmentation as Augmentation
from jeffnet.data.preprocessing import Preprocessing as Preprocessing
