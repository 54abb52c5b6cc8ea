"""The container image: its locks agree with the project's pins, and CUDA starts whatever driver the host has."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ko_reranker import cuda_compat

ROOT = Path(__file__).resolve().parents[2]
LOCKS = {name: (ROOT / "image" / f"{name}.lock").read_text() for name in ("torch-cuda", "packages")}
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+) \\(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+$", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", text, re.M)}


def needed(name: str) -> set[str]:
    """What a package brings along, all the way down, by what is installed here."""
    found: set[str] = set()
    waiting = [(name, frozenset[str]())]
    while waiting:
        package, extras = waiting.pop()
        for line in metadata.requires(package) or []:
            requirement = Requirement(line)
            wanted = [{"extra": extra} for extra in (extras or {""})]
            if requirement.marker and not any(requirement.marker.evaluate(environment) for environment in wanted):
                continue
            below = canonicalize_name(requirement.name)
            if below not in found:
                found.add(below)
                waiting.append((below, frozenset(requirement.extras)))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_is_a_pin_with_hashes(name: str) -> None:
    body = LOCKS[name].split("\n", 1)[1]
    assert PINNED.sub("", body).strip() == ""


def test_the_locks_hold_the_projects_pins() -> None:
    locked = pins(LOCKS["torch-cuda"]) | pins(LOCKS["packages"])
    wanted = pins((ROOT / "constraints.txt").read_text())
    wanted |= pins("\n".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]))
    assert {name: version for name, version in locked.items() if name in wanted} == {
        name: version for name, version in wanted.items() if name in locked
    }, "run `make lock`"


def test_the_locks_hold_all_that_the_package_needs() -> None:
    locked = pins(LOCKS["torch-cuda"]) | pins(LOCKS["packages"])
    assert sorted(needed("ko-reranker") - locked.keys()) == [], "run `make lock`"


def test_the_locks_hold_no_more_than_that_and_cuda() -> None:
    # PyTorch's packages for CUDA are not installed beside its CPU build, and what they need may be anything.
    cuda = re.compile(r"(triton|cuda-.*|nvidia-.*)")
    rest = {name for name in pins(LOCKS["torch-cuda"]) if not cuda.fullmatch(name)}
    assert rest == {"torch"}
    extras = {"ministack", "aws-cdk-lib", "moto", "pytest", "ruff", "sagemaker", "awslambdaric"}
    assert not extras & pins(LOCKS["packages"]).keys()


def test_a_package_without_a_pin_of_its_own_name_is_not_taken_for_locked() -> None:
    assert PINNED.sub("", "requests==2.34.2\n").strip()
    assert PINNED.sub("", "requests>=2 \\\n    --hash=sha256:" + "0" * 64 + "\n").strip()


OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@host)  \nGCC version:  gcc 12.3.0\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Fri Jun  6 18:52:32 UTC 2025\nGCC version:  gcc 11.4.0\n"


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    folder = tmp_path / "compat"
    folder.mkdir()
    (folder / "libcuda.so.580.95.05").write_bytes(b"")
    (folder / "libcuda.so.1").symlink_to("libcuda.so.580.95.05")
    return folder


@pytest.mark.parametrize("text", [OPEN, CLOSED])
@pytest.mark.parametrize(
    ("version", "taken"),
    [("535.183.01", True), ("570.172.08", True), ("580.65.06", False), ("580.95.05", False), ("590.44.01", False)],
)
def test_the_libraries_are_taken_when_the_hosts_driver_is_of_an_older_branch(
    libraries: Path, tmp_path: Path, text: str, version: str, taken: bool
) -> None:
    driver = tmp_path / "version"
    driver.write_text(text.format(version))
    found = cuda_compat.environment({"A": "1", "LD_LIBRARY_PATH": "/usr/lib"}, libraries, driver)
    assert found == ({"A": "1", "LD_LIBRARY_PATH": f"{libraries}:/usr/lib"} if taken else None)


def test_without_libraries_or_driver_or_a_second_time_nothing_is_changed(libraries: Path, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    assert cuda_compat.environment({}, libraries, driver) is None
    driver.write_text(OPEN.format("550.163.01"))
    assert cuda_compat.environment({}, tmp_path / "absent", driver) is None
    again = cuda_compat.environment({}, libraries, driver)
    assert again == {"LD_LIBRARY_PATH": str(libraries)}
    assert cuda_compat.environment(again, libraries, driver) is None


def test_the_command_starts_anew_with_the_libraries_once(libraries: Path, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    driver.write_text(CLOSED.format("550.163.01"))
    code = (
        "import os, sys; from pathlib import Path; from ko_reranker import cuda_compat as compat; "
        f"compat.LIBRARIES = Path({str(libraries)!r}); compat.DRIVER = Path({str(driver)!r}); "
        "compat.environment.__defaults__ = (compat.LIBRARIES, compat.DRIVER); "
        "compat.use_if_needed(); print(os.environ['LD_LIBRARY_PATH'], sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "train", "--base-dir", "work"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"LD_LIBRARY_PATH": ""})
    assert done.stdout.split("\n")[0] == f"{libraries} ['train', '--base-dir', 'work']"
    assert done.stderr.count("older than CUDA's") == 1


RUN = ROOT / "tests" / "image" / "run.py"


def image_test(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN)], capture_output=True, text=True, check=False, env=variables)


def test_without_a_runtime_the_image_test_says_so_and_is_not_green(tmp_path: Path) -> None:
    done = image_test(PATH=str(tmp_path))
    assert done.returncode == 3
    assert "Nothing was tested" in done.stderr and "docker is not installed; podman is not installed" in done.stderr


def test_a_runtime_that_does_not_answer_is_named_with_its_reason(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "Cannot connect to $DOCKER_HOST" >&2\nexit 1\n')
    docker.chmod(0o755)
    done = image_test(PATH=f"{tmp_path}:/bin", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 3
    assert "docker does not answer: Cannot connect to unix:///nowhere.sock" in done.stderr


def test_a_runtime_is_given_the_build_for_cpus_and_a_build_that_fails_is_a_failure(tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$1" = info ] && echo "{{}}" && exit 0\nexit 9\n')
    podman.chmod(0o755)
    done = image_test(PATH=f"{tmp_path}:/bin", BUILD_ARGS="--build-arg BASE_IMAGE=mine:1", NETWORK="host")
    assert done.returncode == 1 and "podman ended with 9" in done.stderr
    build = (tmp_path / "asked").read_text().splitlines()[-1]
    assert build.startswith("build --network host --build-arg TORCH=cpu")
    assert f"--build-arg BASE_IMAGE=mine:1 {ROOT}" in build
