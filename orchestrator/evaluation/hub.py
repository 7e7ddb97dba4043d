"""Uploads files to a model repository of a Hugging Face hub."""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.console import say, warn
from pipelines.errors import UserError


class HubError(UserError, RuntimeError):
    """Files cannot be pushed to a hub; the message says why and what to do."""


def check_push(repository: str) -> None:
    """Check what `push` needs without asking the hub: the library, a valid name, a token.

    Raises HubError.
    """
    try:
        import huggingface_hub  # optional; only --push needs it
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ModuleNotFoundError as error:
        raise HubError(
            f"--push needs the package {error.name}; install it with pip install "
            "'segmentation-orchestrator[hub]'"
        ) from None
    try:
        validate_repo_id(repository)
        problem = "" if repository.count("/") == 1 else "the owner is missing"
    except HFValidationError as error:
        problem = _one_line(error).rstrip(".")
    if problem:
        raise HubError(
            f"--push {repository!r} is not the name of a repository ({problem}); write OWNER/NAME, "
            "such as user/fenet-cityscapes"
        )
    if not huggingface_hub.get_token():
        raise HubError(
            "--push needs a token with write access; set HF_TOKEN, or log in with hf auth login"
        )


def push(
    repository: str, directory: Path, files: Sequence[str], private: bool, console: Console
) -> None:
    """Upload `files` of `directory` in one commit to the repository OWNER/NAME, which is created if
    it does not exist, and print its URL.

    The hub is that of `HF_ENDPOINT`, the token that of `HF_TOKEN` or of `hf auth login`. private:
    create the repository as a private one. Says which files of an existing repository it replaces.

    Raises HubError if nothing was pushed.
    """
    import huggingface_hub  # optional; only --push needs it

    if not console.is_terminal:
        huggingface_hub.utils.disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    api = huggingface_hub.HfApi(endpoint=endpoint, token=huggingface_hub.get_token())
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")  # the library warns about its HTTP client
            warnings.simplefilter("always", UserWarning)  # the hub warns about the card's metadata
            url = _push(api, repository, directory, files, private, console)
    except HubError:
        raise
    except Exception as error:  # the library and its transports have many classes for this
        raise HubError(
            f"{repository} was not pushed: {_reason(error, repository, api.endpoint)}; the "
            f"exported files are in {directory}"
        ) from error
    for warning in caught:
        warn(console, _one_line(warning.message))
    say(console, url)


def _push(
    api: Any,
    repository: str,
    directory: Path,
    files: Sequence[str],
    private: bool,
    console: Console,
) -> str:
    """Push the files and return the URL to show."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        existing = api.model_info(repository)
    except RepositoryNotFoundError:
        existing = None
    if existing is None:
        api.create_repo(repository, private=True if private else None)
    elif private and not existing.private:
        raise HubError(
            f"{repository} was not pushed: it exists and is public, but --private was given; make "
            f"it private in its settings, or leave out --private (the files are in {directory})"
        )
    else:
        present = {entry.rfilename for entry in existing.siblings or ()}
        replaced = [name for name in files if name in present]
        effect = f"replaces {', '.join(replaced)}" if replaced else "adds the files"
        say(console, f"{repository} exists: a new commit {effect}; earlier commits are kept")
    commit = api.create_commit(
        repository,
        [CommitOperationAdd(name, directory / name) for name in files],
        commit_message="Upload a model with orchestrator.export",
        # Refused if the repository has changed since its files were listed.
        parent_commit=existing.sha if existing else None,
    )
    if existing is not None and commit.oid == existing.sha:
        return f"{api.endpoint}/{repository} already has these files; nothing was pushed"
    return f"{api.endpoint}/{repository} (commit {commit.oid[:8]})"


def _reason(error: Exception, repository: str, endpoint: str) -> str:
    """Say in a part of a sentence why a push failed and what to do."""
    from huggingface_hub.errors import HTTPError  # of its HTTP client, which has changed

    answer = _answer(error)
    if answer is None:
        text = ": ".join(_one_line(each).rstrip(".") for each in _with_causes(error))
        if any(isinstance(each, ConnectionError | HTTPError) for each in _with_causes(error)):
            return f"{endpoint} cannot be reached ({text}); check the network and HF_ENDPOINT"
        return text
    status, message = answer
    detail = f" ({message})" if message else ""
    if status == 401:
        return f"{endpoint} rejected the token{detail}; set HF_TOKEN to a valid one"
    if status in (403, 404):
        return (
            f"{endpoint} refused it with status {status}{detail}; check the name, and that the "
            f"token has write access to {repository.partition('/')[0]}"
        )
    if status in (409, 412):
        return f"{endpoint} reported a conflict{detail}; run the command again"
    return f"{endpoint} answered with status {status}{detail}; run the command again later"


def _answer(error: BaseException) -> tuple[int, str] | None:
    """Return status and message of the hub's answer that an error, or its cause, is about."""
    for each in _with_causes(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            message = getattr(each, "server_message", None) or ""
            return int(status), " ".join(message.split()).rstrip(".")
    return None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error of the library, and its cause; the others are those of the transport."""
    yield error
    if error.__cause__ is not None:
        yield error.__cause__


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
