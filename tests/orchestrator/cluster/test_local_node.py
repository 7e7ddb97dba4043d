"""The directory, shared memory and token of a Ray cluster on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import local_node
from orchestrator.cluster.local_node import (
    LocalNodeError,
    local_options,
    low_limits,
    ray_directory,
    short_temporary_directory,
)
from tests.support import ROOT
from tests.support.mounts import small_disk


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "XDG_RUNTIME_DIR", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories to choose from; by default one that cannot be written and a free one."""
    (tmp_path / "file").touch()
    directories = [tmp_path / "file" / "ray", tmp_path / "free" / "ray"]
    monkeypatch.setattr(local_node, "_candidates", lambda: iter(directories))
    monkeypatch.setattr(local_node, "_LONGEST", 1000)
    return directories


def test_unwritable_directory_is_skipped(candidates: list[Path]) -> None:
    assert ray_directory() == candidates[1]


def test_long_temporary_directory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + "a" * 80)
    directory = str(ray_directory())
    session = "/session_2026-11-29_04-15-15_489399_1234567/sockets/plasma_store"
    assert len(directory + session) <= 107


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_fallback_of_another_user_is_not_used(candidates: list[Path], tmp_path: Path) -> None:
    fallback = tmp_path / f"ray-{os.getuid()}"
    candidates[:] = [candidates[0], fallback]
    assert ray_directory() == fallback
    assert fallback.stat().st_mode & 0o777 == 0o700
    os.chown(fallback, 12345, 12345)
    with pytest.raises(LocalNodeError, match=r"Ray cannot use .*Set RAY_TMPDIR"):
        ray_directory()


def test_directory_that_the_user_chose_is_not_replaced(
    candidates: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(LocalNodeError, match=f"Ray cannot use {tmp_path / 'file' / 'ray'}"):
        ray_directory()


@pytest.mark.parametrize("shared_memory", ["missing", "small"])
def test_object_store_is_on_a_disk_without_shared_memory(
    shared_memory: str, candidates: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_node, "_SHARED_MEMORY", tmp_path / shared_memory)
    (tmp_path / "small").mkdir()
    if shared_memory == "small":
        monkeypatch.setattr(local_node, "_OBJECT_STORE_BYTES", 1 << 60)
    options = local_options()
    assert options["_plasma_directory"] == options["_temp_dir"] == str(candidates[1])


def test_token_can_be_read_by_its_user_alone(
    candidates: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    local_options()
    text = token.read_text()
    assert (len(text), token.stat().st_mode & 0o777) == (64, 0o600)
    token.chmod(0o644)  # as Ray writes it
    local_options()
    assert (token.read_text(), token.stat().st_mode & 0o777) == (text, 0o600)
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_token_without_a_home_directory_is_for_this_command_only(
    candidates: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that the test's end removes it
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    local_options()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ("-v 8388608", "address space to 8192 MiB"),
        ("-f 2048", "size of files to"),
        ("-u 200", "this user to 200 processes"),
        ("-c 0", ""),
    ],
)
def test_limits_of_the_shell_are_named(limit: str, named: str) -> None:
    script = "from orchestrator.cluster.local_node import low_limits; print(low_limits())"
    command = ["bash", "-c", f'ulimit {limit}; exec "$0" -c "$1"', sys.executable, script]
    printed = subprocess.check_output(command, text=True, cwd=ROOT)
    assert named in printed
    assert ("ulimit" in printed) == bool(named)


def test_full_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        monkeypatch.setattr(local_node, "_LONGEST", 1000)
        assert f"{disk} has 4 MiB of free space left" in "".join(low_limits())


@pytest.mark.parametrize(("length", "is_kept"), [(75, True), (76, False)])
def test_sockets_of_the_dashboard_fit(
    length: int, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "/tmp/" + "a" * (length - 5)
    monkeypatch.setenv("TMPDIR", given)
    with short_temporary_directory() as variables:
        used = os.environ["TMPDIR"]
        assert (used == given) == is_kept
        assert variables == ({} if is_kept else {"TMPDIR": given})
        assert len(f"{used}/pymp-ab12_cd3/listener-ab12_cd3") <= 107
    assert os.environ["TMPDIR"] == given
