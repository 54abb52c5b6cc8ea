# One image, four commands: `ko-reranker train | mine | evaluate | serve`, SageMaker's contract for your own images.
# From AWS's public registry, which lets CodeBuild pull as often as it likes; Docker Hub doesn't.
ARG BASE_IMAGE=public.ecr.aws/docker/library/python:3.12-slim-bookworm
# Where CUDA's user-space driver comes from; only a build with CUDA pulls it.
ARG CUDA_IMAGE=nvcr.io/nvidia/cuda:13.0.2-base-ubuntu22.04
# cuda, or cpu: PyTorch's CPU build, gigabytes smaller, for tests and for machines without a GPU.
ARG TORCH=cuda

FROM ${CUDA_IMAGE} AS compat-cuda
RUN test -e /usr/local/cuda-13.0/compat/libcuda.so.1 \
    || (apt-get update && apt-get install --yes --no-install-recommends cuda-compat-13-0) \
    && cp -a /usr/local/cuda-13.0/compat /compat

FROM ${BASE_IMAGE} AS compat-cpu
RUN mkdir /compat

FROM compat-${TORCH} AS compat

FROM ${BASE_IMAGE}
ARG TORCH
# Where pip finds PyTorch's CPU build, if its own index has none.
ARG TORCH_INDEX

# Without the first two NVIDIA's runtime gives a container no GPU. /tmp lies on the job's own volume, the home folder does not.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    KO_RERANKER_CACHE=/tmp/ko-reranker HF_HOME=/tmp/huggingface HF_HUB_DISABLE_TELEMETRY=1

# PyTorch 2.13 is CUDA 13, which wants driver 580; SageMaker's training hosts choose theirs. The command takes these libraries
# when the host's driver is of an older branch, and only then (ko_reranker/cuda_compat.py).
COPY --from=compat /compat /usr/local/cuda/compat

WORKDIR /opt/ko-reranker
# PyTorch first: its layer is gigabytes and changes rarely. `make lock` writes the locks; what they don't name is not installed.
COPY image/torch-cuda.lock image/
RUN if [ "$TORCH" = cpu ]; then \
      version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' image/torch-cuda.lock) \
      && pip install --no-deps "torch==$version+cpu" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}; \
    else \
      pip install --no-deps --require-hashes --requirement image/torch-cuda.lock; \
    fi
COPY image/packages.lock image/
RUN pip install --no-deps --require-hashes --requirement image/packages.lock
COPY pyproject.toml ./
COPY app_code app_code
COPY training_job training_job
RUN pip install --no-deps --no-index --no-build-isolation . && pip check

# SageMaker runs `IMAGE train` and `IMAGE serve`; processing jobs name the entrypoint themselves.
ENTRYPOINT ["ko-reranker"]
CMD ["serve"]
