"""Which package may import which: imports of whole files, those inside functions and those for types alone included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app_code/ko_reranker", "app_code/local_cloud", "training_job", "cdk")
# The library's one door to the local cloud: it starts it, and finds the one that runs.
DOOR = "ko_reranker.operations.local"
# The commands that the container runs jobs with.
JOBS = {"ko_reranker.commands.jobs", "ko_reranker.commands.evaluate"}

Arrows = set[tuple[str, str]]


@cache
def files() -> dict[str, Path]:
    """Module name to file."""
    found = {}
    for package in PACKAGES:
        folder = ROOT / package
        for path in sorted(folder.rglob("*.py")):
            parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path) -> Iterator[str]:
    """The modules that a file imports, ours among others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in files() else source


@cache
def modules() -> frozenset[tuple[str, str]]:
    """Every import of one of our modules by another."""
    return frozenset(
        (module, target)
        for module, path in files().items()
        for target in imported(module, path)
        if target in files() and target != module
    )


def package(module: str) -> str:
    """The package or module below the top: `ko_reranker.engine` of `ko_reranker.engine.core`."""
    return ".".join(module.split(".")[:2])


def packages() -> Arrows:
    arrows = {(package(one), package(other)) for one, other in modules() if one != DOOR}
    return {(one, other) for one, other in arrows if one != other}


def circles(arrows: Arrows) -> set[frozenset[str]]:
    """The groups of names that reach each other."""
    reached = {one: {other for name, other in arrows if name == one} for one, _ in arrows}
    for middle in reached:
        for found in reached.values():
            if middle in found:
                found |= reached[middle]
    return {
        frozenset(other for other in found if one in reached.get(other, ())) for one, found in reached.items() if one in found
    }


def arrows(source: str, *targets: str) -> set[str]:
    """The modules under `source` that import something under one of the targets."""
    return {
        one
        for one, other in modules()
        if f"{one}.".startswith(f"{source}.") and any(f"{other}.".startswith(f"{target}.") for target in targets)
    }


def test_packages_import_each_other_in_one_direction() -> None:
    assert circles(packages()) == set()


def test_modules_import_each_other_in_one_direction() -> None:
    assert circles({pair for pair in modules() if pair[0] != DOOR}) == set()


def test_the_library_needs_neither_the_cdk_nor_the_local_cloud() -> None:
    assert arrows("ko_reranker", "cdk", "local_cloud") == {DOOR}


def test_only_the_containers_commands_start_jobs() -> None:
    assert arrows("ko_reranker", "training_job") == JOBS


def test_jobs_need_neither_the_cdk_nor_the_local_cloud() -> None:
    assert arrows("training_job", "cdk", "local_cloud") == set()


def test_the_local_cloud_knows_nothing_of_the_stacks_or_jobs_that_it_runs() -> None:
    assert arrows("local_cloud", "cdk", "training_job") == set()


def test_constructs_know_nothing_of_the_stacks_they_are_in() -> None:
    assert arrows("cdk.constructs", "cdk.stacks") == set()


@pytest.mark.parametrize("path", sorted((ROOT / "lambda").rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_functions_import_nothing_of_ours_but_the_library(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path.stem, path)}
    assert not tops & {"cdk", "local_cloud", "training_job"}


def test_tests_import_and_replace_public_names_only() -> None:
    """Ruff tells of attributes that are private (SLF001), but neither of imports nor of names that are written as text."""
    private = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
                given = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                names = [name for name in given if isinstance(name, str)]
            private += [f"{path.name}: {name}" for name in names if re.match("_(?!_)", name.rpartition(".")[2])]
    assert private == []
