"""Write the image's locks: every package it holds, pinned and with the hashes of its files.

python image/lock.py

`torch-cuda.lock` is PyTorch with CUDA, gigabytes that change rarely and a layer of their own; `packages.lock` is the rest, the
same for both of PyTorch's builds. The pins are those of pyproject.toml and constraints.txt; what neither names, CUDA's
packages, is PyTorch's own choice.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_TORCH = re.compile(r"(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==")
_HEAD = "# Written by `make lock` from pyproject.toml and constraints.txt; don't edit.\n"


def main() -> None:
    requirements = re.split(r"^(?=[A-Za-z])", resolve(HERE.parent), flags=re.MULTILINE)[1:]
    for name, wanted in (("torch-cuda.lock", True), ("packages.lock", False)):
        chosen = [text for text in requirements if bool(_TORCH.match(text)) is wanted]
        (HERE / name).write_text(_HEAD + "".join(chosen), encoding="utf-8")
        print(f"{name}: {len(chosen)} packages")


def resolve(project: Path) -> str:
    """Return the requirements of the image, pinned, each with the hashes of all of its files, for every platform and Python."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--constraint", "constraints.txt"),
        *("--python-platform", "x86_64-manylinux_2_28", "--python-version", "3.12"),
        *("--generate-hashes", "--no-annotate", "--no-header", "--quiet"),
    ]
    return subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
