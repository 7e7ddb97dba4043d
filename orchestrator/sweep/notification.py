"""Sends messages about a study's end to a webhook and to a program."""

import json
import logging
import subprocess
import urllib.request
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from orchestrator.console import InputError, warn
from orchestrator.study.notifications import NotifyOptions
from orchestrator.tracking.runs import RunStatus

logger = logging.getLogger(__name__)

_URL_SECONDS = 10.0
_COMMAND_SECONDS = 60.0
_WORDS: dict[str, str] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "held"}


def check_notifications(options: NotifyOptions) -> None:
    """Raise InputError if the webhook's address needs an environment variable that is not set."""
    if missing := options.missing_variables:
        raise InputError(
            f"notify.url is {options.url}, but the environment variable {missing[0]} is not set; "
            "set it where the command runs"
        )


def message(
    study: str,
    status: RunStatus,
    trials: int,
    finished: int,
    failures: Mapping[str, str],
    reason: str,
    page: str,
) -> dict[str, object]:
    """Return the JSON object of a message.

    failures: causes by trial name. reason: why the study is held. page: address of its table.
    """
    word = _WORDS[status]
    text = f"{study}: {word}, {finished} of {trials} trials finished"
    if failures:
        name, cause = next(iter(failures.items()))
        others = f", and {len(failures) - 1} more failed" if len(failures) > 1 else ""
        text += f"; {name} failed: {cause.partition(chr(10))[0]}{others}"
    if reason:
        text += f"; {reason}"
    return {
        "text": f"{text}; {page}" if page else text,
        "study": study,
        "status": word,
        "trials": trials,
        "finished": finished,
        "failed": dict(failures),
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
    with urllib.request.urlopen(request, timeout=_URL_SECONDS):
        pass


def _run(command: Sequence[str], content: Mapping[str, object]) -> None:
    done = subprocess.run(
        [*command, str(content["text"])],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
    )
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()
        detail = f" ({output[-1]})" if output else ""
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}{detail}")
