"""Supervised processes end when, and as, SageMaker would end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_cloud.sagemaker.processes import Container, base_environment, new_disk, resolve_entrypoint, stop_all
from local_cloud.settings import Image


def start(tmp_path: Path, code: str, lines: list[str] | None = None, grace: float = 5.0) -> Container:
    on_line: Callable[[str], None] = (lines if lines is not None else []).append
    return Container([sys.executable, "-u", "-c", code], os.environ, tmp_path, tmp_path / "log", on_line, grace)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_output_arrives_line_by_line_while_the_command_runs(tmp_path: Path) -> None:
    lines: list[str] = []
    container = start(tmp_path, "import time; print('질의 1'); time.sleep(60)", lines)
    wait_for(lambda: lines == ["질의 1"])
    assert container.returncode is None
    container.kill()
    container.wait(10)


def test_the_exit_status_is_the_commands(tmp_path: Path) -> None:
    assert start(tmp_path, "raise SystemExit(3)").wait(10) == 3


def test_a_command_may_clean_up_after_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(0)))\n"
        "print('ready')\n"
        "time.sleep(60)"
    )
    lines: list[str] = []
    container = start(tmp_path, code, lines)
    wait_for(lambda: lines == ["ready"])
    stop_all([container], grace=5)
    assert lines == ["ready", "saved"]
    assert container.returncode == 0


def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    lines: list[str] = []
    container = start(tmp_path, code, lines, grace=0.3)
    wait_for(lambda: lines == ["ready"])
    stop_all([container], grace=5)
    assert container.returncode == 128 + signal.SIGKILL


def test_workers_in_sessions_of_their_own_end_with_their_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(worker.pid))"
    )
    container = start(tmp_path, code)
    container.wait(10)
    if sys.platform == "linux":  # elsewhere a worker that outlives its parent can't be found any more
        wait_for(lambda: not alive(int(pid_file.read_text())))


def test_a_killed_local_cloud_takes_its_commands_along(tmp_path: Path) -> None:
    cloud = """
import os, sys, time
from pathlib import Path
from local_cloud.sagemaker.processes import Container
command = [sys.executable, "-u", "-c", "import os, time; print(os.getpid()); time.sleep(60)"]
folder = Path(sys.argv[1])
container = Container(command, os.environ, folder, folder / "log", lambda line: print(line, flush=True))
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", cloud, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    wait_for(lambda: not alive(pid))


def test_a_program_that_does_not_exist_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    container = Container(["/nowhere/ko-reranker"], os.environ, tmp_path, tmp_path / "log", lines.append)
    assert container.wait(10) == 127
    assert lines == ["cannot start /nowhere/ko-reranker: No such file or directory"]


def test_a_container_does_not_see_the_hosts_aws_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    environment = base_environment(Image(("/image/bin/ko-reranker",), {"FROM_IMAGE": "1"}), tmp_path, new_disk())
    assert "AWS_PROFILE" not in environment
    assert environment["FROM_IMAGE"] == "1"
    assert environment["SAGEMAKER_BASE_DIR"] == str(tmp_path)
    assert environment["PATH"].startswith("/image/bin:")


def test_hosts_share_no_home_no_cache_and_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KO_RERANKER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "of-this-machine"))
    image, places = Image(("/image/bin/ko-reranker",)), []
    for _ in range(2):
        environment = base_environment(image, tmp_path, new_disk())
        asked = "import tempfile; from ko_reranker.models import cache_dir; print(tempfile.gettempdir(), cache_dir())"
        printed = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
        places += printed.stdout.split()
    assert len(set(places)) == 4
    assert not any(place.startswith((str(tmp_path), str(Path.home() / ".cache"))) for place in places)


def test_an_instance_type_without_a_gpu_does_not_see_this_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    image = Image(("/image/bin/ko-reranker",))
    seen = {
        kind: base_environment(image, tmp_path, new_disk(), kind)["CUDA_VISIBLE_DEVICES"]
        for kind in ("ml.m5.large", "ml.g5.xlarge")
    }
    assert seen == {"ml.m5.large": "", "ml.g5.xlarge": "0"}


def test_an_entrypoint_by_bare_name_is_the_images_program() -> None:
    image = Image(("/image/bin/ko-reranker",))
    assert resolve_entrypoint(["ko-reranker", "mine"], image) == ["/image/bin/ko-reranker", "mine"]
