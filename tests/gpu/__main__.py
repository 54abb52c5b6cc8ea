"""Say what `make test-gpu` is about to test on, and end with status 2 where there is nothing: no test would be no result."""

from __future__ import annotations

import sys

import torch
import transformers

from ko_reranker.gpus import GpuUnusable, check_gpu


def main() -> int:
    """Print the GPUs and the versions."""
    try:
        check_gpu(compute=torch.cuda.is_available())
    except GpuUnusable as error:
        print(error, file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(
            "There is no GPU here: nothing of what a GPU does was tested. Run it on a machine with one, set up by "
            "`make setup TORCH=cuda`.",
            file=sys.stderr,
        )
        return 2
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        print(f"GPU {index}: {torch.cuda.get_device_name(index)}, sm_{major}{minor}, {memory:.0f} GiB")
    print(f"PyTorch {torch.__version__} with CUDA {torch.version.cuda}, transformers {transformers.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
