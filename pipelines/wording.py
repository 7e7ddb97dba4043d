"""Parts of sentences: counts, lists of names, causes of errors, names of options, and what an
unknown name may have meant."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_option_text: ContextVar[Callable[[str], str]] = ContextVar("option_text", default="--{}".format)


def option(name: str) -> str:
    """Return an option as the user writes it: `--NAME`, unless `options_written` says otherwise."""
    return _option_text.get()(name)


@contextmanager
def options_written(text: Callable[[str], str]) -> Iterator[None]:
    """Within this context, messages write the option called `name` as `text(name)`."""
    token = _option_text.set(text)
    try:
        yield
    finally:
        _option_text.reset(token)


def counted(count: int, noun: str) -> str:
    """Return `1 trial`, `2 trials`, and so on."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_names(names: Iterable[object], count: int) -> str:
    """Return the first `count` names, and how many more there are: `a, b and 3 more`."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def cause(error: BaseException) -> str:
    """Return the first line of the innermost cause of a library's error, with `?` for control
    characters; the name of its type if it has no text."""
    while error.args and isinstance(inner := error.args[-1], BaseException):
        error = inner
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return cause(reason)
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    text = " ".join(line.split())
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 200 else f"{text[:200]}..."


def closest(received: str, known: Sequence[str]) -> str | None:
    """Return the entry of `known` most similar to `received`, ignoring case; None if none is."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(received.lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else None


def suggestion(received: str, known: list[str]) -> str:
    """Return `did you mean ...?` if an entry of `known` is similar, followed by all of `known`,
    with quotes where a name contains the separator."""
    match = closest(received, known)
    start = f"did you mean `{match}`? " if match else ""
    names = (repr(name) if "," in name or name.strip() != name else name for name in known)
    return f"{start}known: {', '.join(names)}"
