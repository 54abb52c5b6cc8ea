"""What holds for all tests: their order, which of them see a GPU and how many threads they compute with."""

from __future__ import annotations

import os
from typing import Any

import pytest

# What takes minutes comes first: begun last, the other processes would wait for it at the end.
LONG = ("tests/e2e/", "tests/infrastructure/", "tests/unit/test_training", "tests/unit/test_mini_reranker.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep a file's tests together, those of the one local cloud, those of the templates: what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling  # some tests run in environments that have no xdist

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.rpartition("/")[0]
            return folder if folder in ("tests/e2e", "tests/infrastructure") else file

    return ByWhatIsShared(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """See to what must be settled before PyTorch is imported, here and in the processes that tests start.

    A GPU is seen only by the tests that are about one: everything else computes, and compares, on the CPU. And that with one
    thread: several in each of the processes side by side would spend their time waiting for one another.
    """
    marks = config.getoption("markexpr", "")
    asked = "gpu" in marks and "not gpu" not in marks
    if not asked and not any("tests/gpu" in str(argument) for argument in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, in the order in which it was found."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture
def int8() -> None:
    """Skip the test where the CPU does not multiply 8-bit integers rightly, which loading a model in int8 refuses by name."""
    from ko_reranker.engine.dense import check_int8  # some tests run in environments that have no PyTorch

    try:
        check_int8()
    except RuntimeError as error:
        pytest.skip(str(error))
