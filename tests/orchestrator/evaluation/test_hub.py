"""Pushing files to a hub; a local server takes the requests of `huggingface_hub`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hf_xet
import huggingface_hub
import pytest

from orchestrator.console import open_console
from orchestrator.evaluation.hub import HubError, check_push, push
from tests.support.model_hub import TOKEN, ModelHub
from tests.support.servers import serving

NAME = "user/fenet-cityscapes"
FILES = ("README.md", "model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ModelHub]]:
    """A hub at `HF_ENDPOINT`, a token that it accepts, and large files that are uploaded whole."""

    class Hub(ModelHub):
        pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(Hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", f"{url}/")
        yield Hub
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text("---\ntags: [segmentation]\n---\n# Model\n")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "notes.txt").write_text("of the user, not to be pushed")
    return tmp_path


def pushed(folder: Path, private: bool = False) -> None:
    check_push(NAME)
    push(NAME, folder, FILES, private, open_console())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_new_repository_gets_the_files(
    hub: type[ModelHub], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(folder)
    repository = hub.repositories[NAME]
    assert repository.files == {".gitattributes": b"", **contents(folder)}
    assert not repository.private
    output = capsys.readouterr().out
    assert re.fullmatch(rf"http://127.0.0.1:\d+/{NAME} \(commit [0-9a-f]+\)\n", output)


def test_existing_repository_gets_a_commit(
    hub: type[ModelHub], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(folder, private=True)
    repository = hub.repositories[NAME]
    assert repository.private
    repository.commits.append({**repository.files, "video.mp4": b"by hand"})
    former = contents(folder)
    (folder / "README.md").write_text("---\ntags: [other]\n---\n# Other\n")
    capsys.readouterr()
    pushed(folder)
    assert f"{NAME} exists: a new commit replaces README.md, model.saf" in capsys.readouterr().out
    assert repository.files == {".gitattributes": b"", "video.mp4": b"by hand", **contents(folder)}
    assert repository.commits[-2]["README.md"] == former["README.md"]
    assert repository.private

    commits = len(repository.commits)
    pushed(folder)
    assert f"/{NAME} already has these files; nothing was pushed" in capsys.readouterr().out
    assert len(repository.commits) == commits


def test_public_repository_is_not_pushed_to_as_private(hub: type[ModelHub], folder: Path) -> None:
    pushed(folder)
    with pytest.raises(HubError, match=r"it exists and is public, but --private was given"):
        pushed(folder, private=True)
    assert len(hub.repositories[NAME].commits) == 2


def test_large_files_are_pushed_in_chunks(
    hub: type[ModelHub], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library uploads large files with `hf_xet` if it is installed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.chunks = tmp_path / "chunks"
    hub.chunks.mkdir()
    pushed(folder)
    assert hub.repositories[NAME].files.keys() == {".gitattributes", *FILES}
    file, copy = folder / "model.safetensors", tmp_path / "copy"
    (hashed,) = hf_xet.hash_files([str(file)])
    with hf_xet.XetSession().new_file_download_group(f"local://{hub.chunks}") as group:
        group.start_download_file(hf_xet.XetFileInfo(hashed.hash, hashed.file_size), str(copy))
    assert copy.read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("hub")
def test_rejected_token_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    with pytest.raises(HubError, match=r"rejected the token \(Invalid credentials.*HF_TOKEN") as e:
        pushed(folder)
    assert str(e.value).endswith(f"the exported files are in {folder}")
    assert "hf_of_somebody" not in str(e.value)


@pytest.mark.usefixtures("hub")
def test_refused_owner_is_reported(folder: Path) -> None:
    message = r"status 403 \(You don't have the rights.*\); check the name, and that the token has "
    with pytest.raises(HubError, match=message + "write access to nobody"):
        push("nobody/fenet", folder, FILES, False, open_console())


def test_concurrent_commit_is_reported(
    hub: type[ModelHub], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(folder)
    repository = hub.repositories[NAME]
    (folder / "README.md").write_text("changed")
    answer_commit = hub.commit

    def commit(server: ModelHub, name: str, body: bytes) -> None:
        repository.commits.append({**repository.files, "README.md": b"by somebody else"})
        answer_commit(server, name, body)

    monkeypatch.setattr(hub, "commit", commit)
    with pytest.raises(HubError, match=r"a conflict \(The repository has changed\); run the comm"):
        pushed(folder)
    assert repository.files["README.md"] == b"by somebody else"


def test_missing_network_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ModelHub) as url:
        pass
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(HubError, match=rf"{url} cannot be reached \(.*\); check the network"):
        pushed(folder)
    huggingface_hub.close_session()


@pytest.mark.parametrize("name", ["fenet", "a/b/c", "user/fe net", "user/", "user/a--b"])
def test_wrong_name_is_reported(name: str) -> None:
    with pytest.raises(HubError, match=r"is not the name of a repository \(.*\); write OWNER/NAME"):
        check_push(name)


def test_missing_token_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubError, match="--push needs a token with write access; set HF_TOKEN"):
        check_push(NAME)


def test_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"pip install 'segmentation-orchestrator\[hub\]'"):
        check_push(NAME)
