# syntax=docker/dockerfile:1
# Training and validation on NVIDIA GPUs, images read by PyTorch's DataLoader: released packages on NVIDIA's JAX.
ARG TAG=26.06-py3
FROM nvcr.io/nvidia/jax:${TAG}

SHELL ["/bin/sh", "-eux", "-c"]

# NVIDIA's packages lie in the system's Python, where pip writes only if told so.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2

# Packages of the base that pip may replace, for a base that is too old for jeffnet in them: e.g. "flax".
ARG FREE=""

# The package index of PyTorch's CPU builds, also searched. Without: the torch of PyPI, gigabytes larger, with CUDA
# libraries of its own, which torch needs to be imported and JAX then loads instead of NVIDIA's.
ARG PIP_EXTRA_INDEX_URL=""

# PyTorch only reads images, on the CPU.
# Of the package, the file with its version is enough: it is installed where it lies, and a change of the code below
# installs nothing again.
WORKDIR /opt/jeffnet
COPY docker/constraints.py docker/
COPY pyproject.toml LICENSE ./
COPY jeffnet/__init__.py jeffnet/
RUN touch README.md; \
    python docker/constraints.py --free ${FREE} > constraints.txt; \
    python -m pip install --no-cache-dir --constraint constraints.txt \
        --editable ".[torch,objax,hf,keras,train]"; \
    python docker/constraints.py --check constraints.txt

# An id may be taken: Ubuntu has a user 1000, whose home a numeric USER would get. The folders are open to any other
# user that a container is run as.
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
RUN python docker/smoke.py jax jaxlib flax optax jeffnet.objax torch torchvision datasets; \
    python -m jeffnet.doctor --need objax torch

# Not before the checks above, so that they leave nothing in /cache.
ENV XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TFDS_DATA_DIR=/cache/tensorflow_datasets \
    MPLCONFIGDIR=/cache/matplotlib \
    JAX_COMPILATION_CACHE_DIR=/cache/jax
VOLUME ["/data", "/cache", "/output"]

ARG TAG
ARG REVISION=""
LABEL org.opencontainers.image.title="jeffnet pt_pip" \
      org.opencontainers.image.description="Vision models for JAX on NVIDIA GPUs, with PyTorch's readers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/jax:${TAG}"

# The entry point stays NVIDIA's.
CMD ["python", "pt_linen_train.py", "--help"]
