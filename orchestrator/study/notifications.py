"""The configuration of messages about a study's end."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


def is_address(text: str) -> bool:
    """Whether a text is the address of a web page."""
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and " " not in text
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid


@dataclass(frozen=True)
class NotifyOptions:
    """Who is notified when a command ends that trains: the study is finished, has failed, or is
    interrupted by a limit, a full disk or a stop.

    url: a webhook, to which a JSON object is posted. Its key `text` is a sentence, which Slack,
        Mattermost and Discord (with `/slack` at the end of the URL) show; the other keys are
        `study`, `status`, `trials`, `finished`, `failed`, `incomplete` and `page`. Environment
        variables such as `$WEBHOOK` are replaced when the message is sent, so that a secret stays
        out of the file.
    command: a program and its arguments, such as `[notify-send, Study]`. The sentence is added as
        the last argument, and the JSON object is its standard input.
    """

    __pydantic_config__ = {"extra": "forbid"}

    url: str | None = None
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.url is not None and "$" not in self.url and not is_address(self.url):
            raise ValueError(
                f"url must be an address such as https://HOST/PATH, or a variable such as "
                f"$WEBHOOK, received {self.url!r}"
            )

    @property
    def missing_variables(self) -> list[str]:
        """The environment variables in `url` that are not set."""
        return [name for name in _VARIABLE.findall(self.url or "") if name not in os.environ]

    @property
    def expanded_url(self) -> str:
        """`url` with the values of its environment variables; empty without a URL."""
        return _VARIABLE.sub(lambda match: os.environ[match[1]], self.url or "")
