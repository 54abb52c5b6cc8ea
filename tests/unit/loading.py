"""Lambda functions are loaded by path: `lambda` is a keyword, and their modules may share names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

LAMBDA = Path(__file__).parents[2] / "lambda"


def load(function: str, module: str) -> ModuleType:
    """Return a module of a function's folder."""
    path = LAMBDA / function / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"lambda_{function}_{module}", path)
    assert spec and spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
