"""Files of this program without a usable home directory."""

import os
import tempfile
from pathlib import Path

import pytest

from pipelines.data.storage import expand_home


@pytest.mark.parametrize("home", ["/", "/missing/home", "", "relative"])
def test_unusable_home_is_replaced_by_a_private_folder(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = expand_home(Path("~/.cache/x"))
    assert path == tmp_path / f"home-{os.getuid()}" / ".cache" / "x"
    assert (tmp_path / f"home-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_usable_home_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(Path("~/.cache/x")) == tmp_path / ".cache" / "x"
    assert expand_home(Path("/data/x")) == Path("/data/x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"home-{os.getuid()}").mkdir()
    os.chown(tmp_path / f"home-{os.getuid()}", 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        expand_home(Path("~/.cache/x"))
