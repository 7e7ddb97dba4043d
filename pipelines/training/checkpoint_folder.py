"""The checkpoints of one training in a folder: the last, the best, and as many more as asked for.

A checkpoint has its name only when it is complete, and what is to be kept follows from what is
there; so a process may be killed at any moment, and the next one goes on from a true state.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.files import PARTIAL, sync_to_disk
from pipelines.network.checkpoint import Snapshot, read_state

LAST, BEST = "last", "best"

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Entry:
    """A complete checkpoint. epoch, step: finished epochs, and steps in the one under way.
    miou: on the validation split; None where it was not validated."""

    path: Path
    epoch: int
    step: int
    miou: float | None


@dataclass(frozen=True)
class Selection:
    """Which checkpoints there are to be: `best` is None before the first validation."""

    last: Entry
    best: Entry | None
    dropped: tuple[Entry, ...]


def select(entries: Sequence[Entry], keep: int) -> Selection:
    """The furthest one stays, and the `keep` best on the validation split (of equals the later).

    entries: at least one.
    """
    in_order = sorted(entries, key=lambda entry: (entry.epoch, entry.step))
    scored = [(entry.miou, entry) for entry in in_order if entry.miou is not None]
    ranked = [entry for _, entry in sorted(scored, key=lambda pair: pair[0])]
    kept = [in_order[-1], *ranked[-keep:]]
    dropped = tuple(entry for entry in in_order if entry not in kept)
    return Selection(in_order[-1], ranked[-1] if ranked else None, dropped)


class CheckpointFolder:
    """Checkpoints in `root`, one directory each, and the links `last` and `best` to two of them.

    keep: how many of the best stay, besides the last. texts: files that each checkpoint holds
        beside the training's state, by name.
    """

    def __init__(self, root: Path, keep: int = 1, texts: Mapping[str, str] | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, received {keep}")
        self.root = root
        self.keep = keep
        self.texts = texts or {}

    def last(self) -> Path | None:
        """The checkpoint to go on from. Raises CheckpointError where one cannot be read."""
        entries = self._entries()
        return select(entries, self.keep).last.path if entries else None

    def tidy(self) -> None:
        """Remove what killed processes left half-written, and set the links as they should be."""
        for partial in self._directory.glob(f"*{PARTIAL}"):
            shutil.rmtree(partial)
        entries = self._entries()
        if not entries:
            return
        selection = select(entries, self.keep)
        self._link(LAST, selection.last)
        if selection.best is not None:
            self._link(BEST, selection.best)
        for entry in selection.dropped:
            # Out of the way by one rename, so that no half of it can be taken for a checkpoint.
            doomed = entry.path.with_name(entry.path.name + PARTIAL)
            entry.path.rename(doomed)
            shutil.rmtree(doomed)

    def save(self, snapshot: Snapshot, epoch: int, step: int) -> None:
        """Add the checkpoint at `step` of `epoch`, then drop those no longer wanted."""
        snapshot.write(self._directory / f"epoch-{epoch:04d}-step-{step:06d}", self.texts)
        self.tidy()

    @property
    def _directory(self) -> Path:
        return self.root / _CHECKPOINTS

    def _entries(self) -> list[Entry]:
        return [
            _entry(path)
            for path in sorted(self._directory.glob("epoch-*"))
            if not path.name.endswith(PARTIAL)
        ]

    def _link(self, name: str, entry: Entry) -> None:
        target = entry.path.relative_to(self.root)
        link, new = self.root / name, self.root / f"{name}{PARTIAL}"
        if link.is_symlink() and Path(os.readlink(link)) == target:
            return
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        os.replace(new, link)
        sync_to_disk([self.root])


def _entry(path: Path) -> Entry:
    state = read_state(path)
    epoch, step = int(state["position"]["epoch"]), int(state["position"]["step"])
    miou = state["history"][-1].get("val/miou") if step == 0 and state["history"] else None
    return Entry(path, epoch, step, miou)


class BackgroundWriter:
    """Does one piece of work at a time. Use it as a context: leaving it waits for the last one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def wait(self) -> None:
        """Wait until what was started is done. Raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, once what was started before is done. Raises what that raised."""
        self.wait()
        self._pending = self._thread.submit(work)

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # Also behind an error of the training, the checkpoint under way is completed.
            self._thread.shutdown(wait=True)
