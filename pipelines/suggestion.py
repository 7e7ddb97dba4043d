"""What a name that nothing has may have meant."""

import difflib
from collections.abc import Sequence


def closest(received: str, known: Sequence[str]) -> str | None:
    """Return the entry of `known` most similar to `received`, ignoring case; None if none is."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(received.lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else None


def suggestion(received: str, known: list[str]) -> str:
    """Return `did you mean ...?` if an entry of `known` is similar, followed by all of `known`."""
    match = closest(received, known)
    start = f"did you mean `{match}`? " if match else ""
    return f"{start}known: {', '.join(known)}"
