"""The image is built again when what it holds changes, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import aws_cdk as cdk
import pytest
from aws_cdk import aws_s3_assets as assets
from synthesis import CONTEXT

from cdk.constructs import image
from cdk.constructs.python_function import ROOT
from ko_reranker.settings import load_settings

HELD = ("Dockerfile", ".dockerignore", "pyproject.toml", "image/packages.lock", "image/torch-cuda.lock")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's files beside the package, and one file of each package."""
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path / path.name)
    shutil.copytree(ROOT / "image", tmp_path / "image")
    packages = ("app_code/ko_reranker", "app_code/local_cloud", "training_job")
    for file in (*(f"{package}/__init__.py" for package in packages), "cdk/app.py", "docs/api.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    # An editable install leaves the package's metadata beside it.
    (tmp_path / "app_code" / "ko_reranker.egg-info").mkdir()
    (tmp_path / "app_code" / "ko_reranker.egg-info" / "PKG-INFO").write_text("1")
    return tmp_path


def digest(folder: Path) -> str:
    stack = cdk.Stack(cdk.App(), "Stack")
    asset = assets.Asset(stack, "Image", path=str(folder), exclude=image.EXCLUDED, ignore_mode=cdk.IgnoreMode.DOCKER)
    return asset.asset_hash


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "README.ko.md",
        "cdk.json",
        "Makefile",
        "LICENSE",
        "package.json",
        "constraints.txt",
        "app_code/local_cloud/__init__.py",
        "cdk/app.py",
        "docs/api.md",
        "new.txt",
        "app_code/ko_reranker.egg-info/PKG-INFO",
    ],
)
def test_what_the_image_does_not_hold_does_not_build_it_again(copy: Path, file: str) -> None:
    before = digest(copy)
    with (copy / file).open("a") as stream:
        stream.write("\nedited\n")
    assert digest(copy) == before


@pytest.mark.parametrize("file", [*HELD, "app_code/ko_reranker/__init__.py", "training_job/__init__.py"])
def test_what_it_holds_does(copy: Path, file: str) -> None:
    before = digest(copy)
    with (copy / file).open("a") as stream:
        stream.write("\n# edited\n")
    assert digest(copy) != before


def test_the_stage_builds_from_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict = {}
    build = image.deploy_time_build.ContainerImageBuild
    monkeypatch.setattr(
        image.deploy_time_build,
        "ContainerImageBuild",
        lambda *place, **options: given.update(options) or build(*place, **options),
    )
    stack = cdk.Stack(cdk.App(), "Stack")
    image.container_image(stack, load_settings({**CONTEXT, "stage": "prod"}))
    assert (given["exclude"], given["ignore_mode"]) == (image.EXCLUDED, cdk.IgnoreMode.DOCKER)


def test_the_packages_build_needs_no_file_that_the_image_lacks() -> None:
    lines = (ROOT / ".dockerignore").read_text()
    assert "README" not in lines
    assert 'readme = "' not in (ROOT / "pyproject.toml").read_text()
    copied = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    assert not [line for line in copied if "README" in line]
