# syntax=docker/dockerfile:1
# Training and validation on NVIDIA GPUs, images read by PyTorch's DataLoader:
# jax, Flax, Optax and Objax from their repositories, on NVIDIA's jaxlib.
ARG TAG=26.06-py3
FROM nvcr.io/nvidia/jax:${TAG}

SHELL ["/bin/sh", "-eux", "-c"]

# NVIDIA's packages lie in the system's Python, where pip writes only if told so.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    TF_CPP_MIN_LOG_LEVEL=2

# A branch, tag or commit each. "jax" runs only with a jaxlib in a window of versions that ends at its own, and checks
# that when imported. Empty takes the tag of the release that the base's jaxlib was built from.
ARG JAX_REF=""
ARG FLAX_REF=main
ARG OPTAX_REF=main
ARG OBJAX_REF=master

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
# Without dependencies, so that jaxlib stays; even where the version is the one installed. JAX_RELEASE gives jax the
# plain version of its tag: as a dev version it would be older than the releases that other packages ask for. objax is
# built by what newer setuptools lack (pkg_resources); the variable is called otherwise since pip 25.3.
RUN echo 'setuptools<81' > build.txt; \
    export PIP_CONSTRAINT="${PIP_CONSTRAINT:-} build.txt" PIP_BUILD_CONSTRAINT=build.txt; \
    if [ -z "${JAX_REF}" ]; then JAX_REF="$(python docker/constraints.py --jax-tag)"; export JAX_RELEASE=1; fi; \
    python -m pip install --no-cache-dir --no-deps --force-reinstall --use-pep517 \
        "jax @ git+https://github.com/jax-ml/jax@${JAX_REF}" \
        "flax @ git+https://github.com/google/flax@${FLAX_REF}" \
        "optax @ git+https://github.com/google-deepmind/optax@${OPTAX_REF}" \
        "objax @ git+https://github.com/google/objax@${OBJAX_REF}"
# From here on these four are kept like the base's own.
RUN touch README.md; \
    python docker/constraints.py --also optax objax > constraints.txt; \
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
LABEL org.opencontainers.image.title="jeffnet pt_git" \
      org.opencontainers.image.description="Vision models for JAX on NVIDIA GPUs, with PyTorch's readers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/jax:${TAG}"

# The entry point stays NVIDIA's.
CMD ["python", "pt_linen_train.py", "--help"]
