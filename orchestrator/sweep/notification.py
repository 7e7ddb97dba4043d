"""Sends messages about a study's end to a webhook and to a program."""

import json
import logging
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from rich.console import Console

from orchestrator.console import InputError, warn
from orchestrator.study.notifications import NotifyOptions, is_address
from orchestrator.tracking.runs import RunStatus

logger = logging.getLogger(__name__)

_URL_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
_WORDS: dict[str, str] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


def check_notifications(options: NotifyOptions) -> None:
    """Raise InputError if the webhook needs an environment variable that is not set or holds no
    address, or if the program does not exist."""
    if missing := options.missing_variables:
        raise InputError(
            f"notify.url is {options.url}, but the environment variable {missing[0]} is not set; "
            "set it where the command runs"
        )
    if options.url and not is_address(options.expanded_url):
        raise InputError(  # without the value, which may be secret
            f"notify.url is {options.url}, which is not an address such as https://HOST/PATH with "
            "the values of its environment variables; change them where the command runs"
        )
    if options.command and shutil.which(options.command[0]) is None:
        raise InputError(
            f"notify.command starts {options.command[0]!r}, but there is no such program; install "
            "it where the command runs, or give its path"
        )


def message(
    study: str,
    status: RunStatus,
    trials: int,
    finished: Collection[str],
    failures: Mapping[str, str],
    reason: str,
    page: str,
) -> dict[str, object]:
    """Return the JSON object of a message.

    trials: their number. finished: names of the finished ones. failures: by trial name, why it
    failed, or which evaluation of a finished one is missing and why. reason: why the study was
    interrupted. page: address of its table.
    """
    word = _WORDS[status]
    text = f"{study}: {word}, {len(finished)} of {trials} trials finished"
    failed = {name: cause for name, cause in failures.items() if name not in finished}
    incomplete = {name: cause for name, cause in failures.items() if name in finished}
    for state, causes in (("failed", failed), ("incomplete", incomplete)):
        if causes:
            name, cause = next(iter(causes.items()))
            others = f", and {len(causes) - 1} more {state}" if len(causes) > 1 else ""
            text += f"; {name} {state}: {cause.partition(chr(10))[0]}{others}"
    if reason:
        text += f"; {reason}"
    return {
        "text": f"{text}; {page}" if page else text,
        "study": study,
        "status": word,
        "trials": trials,
        "finished": len(finished),
        "failed": failed,
        "incomplete": incomplete,
        "page": page,
    }


def send(options: NotifyOptions, content: Mapping[str, object], console: Console) -> None:
    """Send a message; a failure is only a warning, because the study has ended."""
    if options.url:
        _try("notify.url", lambda: _post(options.expanded_url, content), console)
    if options.command:
        _try("notify.command", lambda: _run(options.command, content), console)


def _try(name: str, deliver: Callable[[], None], console: Console) -> None:
    try:
        deliver()
    except Exception as error:  # also of an address that is no URL after all
        logger.exception("%s", name)
        warn(console, f"{name} could not be notified: {error}")


def _post(url: str, content: Mapping[str, object]) -> None:
    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_URL_SECONDS):
            pass
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        raise RuntimeError(str(error.reason)) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, to which urllib would send a request without the message."""

    def redirect_request(self, *_: Any) -> NoReturn:
        raise RuntimeError("it redirects to another address; set notify.url to that one")


def _run(command: Sequence[str], content: Mapping[str, object]) -> None:
    # A file, because a program that continues in the background would keep a pipe open.
    with tempfile.TemporaryFile() as file:
        try:
            done = subprocess.run(
                [*command, str(content["text"])],
                input=json.dumps(content).encode(),
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"{command[0]} did not end within {_COMMAND_SECONDS:g} s and was killed"
            ) from None
        file.seek(0)
        output = file.read().decode(errors="replace").strip().splitlines()
    if done.returncode:
        detail = f" ({output[-1]})" if output else ""
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}{detail}")
