"""Messages about a study's end, to a real web server and real programs."""

import http.server
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.console import InputError
from orchestrator.study.notifications import NotifyOptions
from orchestrator.sweep.notification import check_notifications, message, send
from tests.support.servers import serving

CONTENT = message(
    "flows",
    "FAILED",
    12,
    [f"trial {number}" for number in range(10)],
    {"strong": "out of memory\nmore", "full": "lost"},
    "",
    "http://host/1",
)
SENTENCE = (
    "flows: failed, 10 of 12 trials finished; strong failed: out of memory, and 1 more failed; "
    "http://host/1"
)


def test_webhook_receives_the_sentence_and_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append({"path": self.path, **json.loads(body)})
            self.send_response(
                404 if "wrong" in self.path else 302 if "moved" in self.path else 200
            )
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    console = Console(record=True, width=200)
    with serving(Handler) as address:
        monkeypatch.setenv("SECRET_PATH", "token")
        options = NotifyOptions(url=f"{address}/$SECRET_PATH")
        check_notifications(options)
        send(options, CONTENT, console)
        assert console.export_text() == ""
        send(NotifyOptions(url=f"{address}/wrong"), CONTENT, console)
        send(NotifyOptions(url=f"{address}/moved"), CONTENT, console)
    send(NotifyOptions(url=f"{address}/gone"), CONTENT, console)
    (first, _, _) = received
    assert first.pop("path") == "/token"
    assert first == CONTENT
    assert first["text"] == SENTENCE
    assert (first["status"], first["finished"], first["failed"]["full"]) == ("failed", 10, "lost")
    wrong, moved, gone = console.export_text().splitlines()
    assert "notify.url could not be notified: HTTP Error 404" in wrong
    assert moved.endswith("it redirects to another address; set notify.url to that one")
    assert gone.endswith("Connection refused")


def test_program_receives_the_sentence_and_the_numbers(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + '\\n' + sys.stdin.read())"
    console = Console(record=True, width=200)
    options = NotifyOptions(command=(sys.executable, "-c", code, str(tmp_path / "received")))
    send(options, CONTENT, console)
    assert console.export_text() == ""
    sentence, content = (tmp_path / "received").read_text().splitlines()
    assert sentence == SENTENCE
    assert json.loads(content) == CONTENT


def test_failed_delivery_is_a_warning() -> None:
    console = Console(record=True, width=200)
    for command in (("no-such-program",), (sys.executable, "-c", "raise SystemExit('no route')")):
        send(NotifyOptions(command=command), CONTENT, console)
    missing, failed = console.export_text().splitlines()
    assert "No such file or directory: 'no-such-program'" in missing
    assert failed.endswith("ended with status 1 (no route)")


def test_program_may_go_on_in_the_background() -> None:
    """As one that starts a server of notifications, which keeps the output open."""
    code = "import subprocess as s; s.Popen(['sleep', '30']); raise SystemExit('no route')"
    console = Console(record=True, width=200)
    began = time.monotonic()
    send(NotifyOptions(command=(sys.executable, "-c", code)), CONTENT, console)
    assert time.monotonic() - began < 20
    assert "(no route)" in console.export_text()


def test_unusable_addresses_are_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_WEBHOOK", raising=False)
    with pytest.raises(InputError, match="environment variable NO_SUCH_WEBHOOK is not set"):
        check_notifications(NotifyOptions(url="$NO_SUCH_WEBHOOK"))
    monkeypatch.setenv("WEBHOOK", "file:///secret")
    with pytest.raises(InputError, match=r"notify\.url is \$WEBHOOK, which is not") as raised:
        check_notifications(NotifyOptions(url="$WEBHOOK"))
    assert "secret" not in str(raised.value)
    with pytest.raises(InputError, match="starts 'no-such-program', but there is no such program"):
        check_notifications(NotifyOptions(command=("no-such-program",)))
    for url in ("host/path", "ftp://host/x", "https://", "https://host:port/", "https://host/a b"):
        with pytest.raises(ValueError, match="url must be an address such as https://HOST/PATH"):
            NotifyOptions(url=url)


def test_a_held_study_says_why() -> None:
    content = message("flows", "KILLED", 3, ["a"], {}, "limits.gpu_hours is reached", "")
    assert content["text"] == (
        "flows: interrupted, 1 of 3 trials finished; limits.gpu_hours is reached"
    )


def test_a_trained_trial_without_a_score_has_not_failed() -> None:
    failures = {"a": "not scored under flip: stopped", "b": "out of memory"}
    content = message("flows", "KILLED", 3, ["a", "c"], failures, "", "")
    assert content["failed"] == {"b": "out of memory"}
    assert content["incomplete"] == {"a": "not scored under flip: stopped"}
    assert content["finished"] == 2
    assert content["text"] == (
        "flows: interrupted, 2 of 3 trials finished; b failed: out of memory; "
        "a incomplete: not scored under flip: stopped"
    )
