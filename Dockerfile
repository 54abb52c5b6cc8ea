# One image, four commands: `ko-reranker train | mine | evaluate | serve`, SageMaker's contract for your own images.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 KO_RERANKER_CACHE=/tmp/ko-reranker

WORKDIR /opt/ko-reranker
# PyTorch first: its layer is gigabytes and changes rarely. The registry's build for Linux comes with CUDA.
COPY pyproject.toml constraints.txt README.md ./
RUN python - <<'PY' > /tmp/torch.txt
import tomllib
print(next(line for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if line.startswith("torch==")))
PY
RUN pip install --constraint constraints.txt --requirement /tmp/torch.txt
COPY app_code app_code
COPY training_job training_job
RUN pip install --constraint constraints.txt .

# SageMaker runs `IMAGE train` and `IMAGE serve`; processing jobs name the entrypoint themselves.
ENTRYPOINT ["ko-reranker"]
CMD ["serve"]
