# syntax=docker/dockerfile:1
# Everything on CPUs, both readers: to try things out, to prepare data, for CI. The versions are those of
# requirements.txt, of TensorFlow the newest CPU build.
ARG TAG=3.12-slim-bookworm
FROM python:${TAG}

SHELL ["/bin/sh", "-eux", "-c"]

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2

# The package index of PyTorch's CPU builds, also searched. Without: the torch of PyPI, with gigabytes of CUDA libraries
# that nothing here uses.
ARG PIP_EXTRA_INDEX_URL=""

# Of the package, the file with its version is enough: it is installed where it lies, and a change of the code below
# installs nothing again.
WORKDIR /opt/jeffnet
COPY pyproject.toml requirements.txt LICENSE ./
COPY jeffnet/__init__.py jeffnet/
RUN touch README.md; \
    python -m pip install --no-cache-dir --constraint requirements.txt \
        --editable ".[tf-cpu,torch,objax,hf,keras,train]"

# The folders are open to any other user that a container is run as.
ARG UID=1000
ARG GID=1000
ENV HOME=/home/jeffnet
RUN groupadd --non-unique --gid "${GID}" jeffnet; \
    useradd --non-unique --no-log-init --create-home --uid "${UID}" --gid "${GID}" --shell /bin/bash jeffnet; \
    install --directory --owner="${UID}" --group="${GID}" --mode=1777 /data /cache /output; \
    ln -s /output output

COPY docker/smoke.py docker/
COPY README.md *_train.py *_validate.py translate_keras.py ./
COPY train_configs train_configs
COPY jeffnet jeffnet
RUN python -m compileall -q jeffnet

USER ${UID}:${GID}
# A reader a process, as in the scripts.
RUN python docker/smoke.py jax jaxlib flax optax jeffnet.objax tensorflow tensorflow_datasets datasets; \
    python docker/smoke.py jax jeffnet.objax torch torchvision; \
    python -m jeffnet.doctor --need objax tf torch

# Not before the checks above, so that they leave nothing in /cache.
ENV XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TFDS_DATA_DIR=/cache/tensorflow_datasets \
    MPLCONFIGDIR=/cache/matplotlib \
    JAX_COMPILATION_CACHE_DIR=/cache/jax
VOLUME ["/data", "/cache", "/output"]

ARG TAG
ARG REVISION=""
LABEL org.opencontainers.image.title="jeffnet cpu" \
      org.opencontainers.image.description="Vision models for JAX on CPUs, with TensorFlow's and PyTorch's readers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="python:${TAG}"

CMD ["python", "tf_linen_train.py", "--help"]
