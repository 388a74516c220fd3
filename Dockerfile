# AtlasGS as a container: docs/install.md has the commands.
#
#   docker build -t atlasgs .
#   docker run --rm --gpus all -u "$(id -u):$(id -g)" -v BIDS:/data:ro -v OUT:/out atlasgs /data /out participant
#
# The default build takes the standard torch wheel, which brings its own CUDA libraries: it runs on a GPU where
# `--gpus all` lends one, else on the CPU. PIP_ARGS chooses another wheel, such as the far smaller CPU one.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# hadolint ignore=DL3006 - the argument carries the tag
FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
# CUDA architectures such as "8.0;9.0": gsplat's kernels are then compiled here; empty: not at all.
ARG GSPLAT_ARCHS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src

RUN python -m venv /opt/atlasgs
ENV PATH=/opt/atlasgs/bin:$PATH

# The dependencies first, by way of an empty package: a change of the code rebuilds only what comes after them.
COPY pyproject.toml constraints.txt LICENSE ./
COPY atlasgs_bids/__init__.py atlasgs_bids/version.py atlasgs_bids/
# hadolint ignore=SC2086,DL3042 - PIP_ARGS is a list of arguments; PIP_NO_CACHE_DIR is set above
RUN touch README.md && pip install --no-compile ${PIP_ARGS} -c constraints.txt . && pip uninstall -y atlasgs-bids

COPY container/gsplat_kernels.sh container/gsplat_kernels.py ./
RUN ./gsplat_kernels.sh "${GSPLAT_ARCHS}"

COPY README.md ./
COPY atlasgs_bids atlasgs_bids
COPY container/slim.sh container/import_all.py ./
# hadolint ignore=DL3042
RUN pip install --no-compile --no-deps . && ./slim.sh /opt/atlasgs

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
COPY container/compiler.sh /tmp/
COPY --from=build /opt/atlasgs /opt/atlasgs
# Triton, which comes with torch's CUDA wheels alone, compiles a launcher with the system's C compiler.
RUN /tmp/compiler.sh /opt/atlasgs && rm /tmp/compiler.sh

# PYTHONNOUSERSITE: packages in a mounted home directory must not replace those that were tested.
ENV PATH=/opt/atlasgs/bin:$PATH \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8

LABEL org.opencontainers.image.title="AtlasGS" \
      org.opencontainers.image.description="BIDS App: isotropic FLAIR and T2w from thick slices, guided by the subject's own T1w" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"

USER 1000:1000
WORKDIR /tmp
HEALTHCHECK CMD ["atlasgs", "--version"]
ENTRYPOINT ["atlasgs"]
