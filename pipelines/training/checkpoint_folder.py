"""The folder of a training's checkpoints: the last one and the best ones.

A checkpoint gets its name only when it is complete, and the checkpoints in the folder decide which
ones to keep. A process can therefore be killed at any time, and the next one resumes correctly.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.files import PARTIAL, remove_directory, replace_symlink
from pipelines.data.storage import locate
from pipelines.network.checkpoint import Snapshot, read_state
from pipelines.network.checkpoint_damage import damage_of

LAST, BEST = "last", "best"

_CHECKPOINTS = "checkpoints"
_DAMAGED = "damaged-"


@dataclass(frozen=True)
class Entry:
    """A complete checkpoint.

    epoch, step: finished epochs, and finished steps of the current epoch. miou: on the validation
    split; None without validation.
    """

    path: Path
    epoch: int
    step: int
    miou: float | None


@dataclass(frozen=True)
class Selection:
    """The last and the best checkpoint, and those to delete.

    `best` is None before the first validation.
    """

    last: Entry
    best: Entry | None
    dropped: tuple[Entry, ...]


def select(entries: Sequence[Entry], keep: int) -> Selection:
    """Keep the last checkpoint and the `keep` best on the validation split (the later if equal).

    entries: at least one.
    """
    in_order = sorted(entries, key=lambda entry: (entry.epoch, entry.step))
    scored = [(entry.miou, entry) for entry in in_order if entry.miou is not None]
    ranked = [entry for _, entry in sorted(scored, key=lambda pair: pair[0])]
    kept = [in_order[-1], *ranked[-keep:]]
    dropped = tuple(entry for entry in in_order if entry not in kept)
    return Selection(in_order[-1], ranked[-1] if ranked else None, dropped)


class CheckpointFolder:
    """Checkpoint directories in `root`, and the links `last` and `best` to two of them.

    keep: number of best checkpoints to keep, besides the last. texts: additional text files of each
    checkpoint, by name.
    """

    def __init__(self, root: Path, keep: int = 1, texts: Mapping[str, str] | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, received {keep}")
        self.root = root
        self.keep = keep
        self.texts = texts or {}

    def last(self) -> Path | None:
        """Return the checkpoint to resume from, or None.

        Raises:
            CheckpointError: a checkpoint cannot be read.
        """
        entries = self._entries()
        return select(entries, self.keep).last.path if entries else None

    def set_aside_damaged(self, averaged: bool) -> list[str]:
        """Rename each checkpoint that a power loss or an incomplete copy has damaged, so that the
        training continues from the last whole one; return a sentence about each.

        averaged: whether the training averages its weights.
        """
        sentences = []
        for path in self._paths():
            if damage := damage_of(locate(path), averaged):
                aside = _free_name(path.with_name(f"{_DAMAGED}{path.name}"))
                path.rename(aside)
                sentences.append(f"{path} is damaged ({damage}); renamed to {aside.name}")
        for link in (self.root / LAST, self.root / BEST):
            if link.is_symlink() and not link.exists():
                link.unlink()
        return sentences

    def tidy(self) -> None:
        """Delete incomplete and superseded checkpoints, and update the links."""
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
            remove_directory(entry.path)

    def save(self, snapshot: Snapshot, epoch: int, step: int) -> None:
        """Write the checkpoint at `step` of `epoch`, then delete superseded ones.

        Raises:
            CheckpointError: writing fails.
        """
        snapshot.write(self._directory / f"epoch-{epoch:04d}-step-{step:06d}", self.texts)
        self.tidy()

    @property
    def _directory(self) -> Path:
        return self.root / _CHECKPOINTS

    def _paths(self) -> list[Path]:
        paths = sorted(self._directory.glob("epoch-*"))
        return [path for path in paths if not path.name.endswith(PARTIAL)]

    def _entries(self) -> list[Entry]:
        return [_entry(path) for path in self._paths()]

    def _link(self, name: str, entry: Entry) -> None:
        link, target = self.root / name, entry.path.relative_to(self.root)
        if not (link.is_symlink() and Path(os.readlink(link)) == target):
            replace_symlink(link, target)


def _free_name(path: Path) -> Path:
    """Return `path`, with a number at its end if it exists."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def _entry(path: Path) -> Entry:
    state = read_state(path)
    epoch, step = int(state["position"]["epoch"]), int(state["position"]["step"])
    miou = state["history"][-1].get("val/miou") if step == 0 and state["history"] else None
    return Entry(path, epoch, step, miou)


class CheckpointWriter:
    """Writes one checkpoint at a time in a thread.

    As a context manager, it waits on exit for the checkpoint in progress.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def wait(self) -> None:
        """Wait for the write in progress, and raise its error if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def start(self, write: Callable[[], None]) -> None:
        """Start `write` after the write in progress; raise the error of the latter if it failed."""
        self.wait()
        self._pending = self._thread.submit(write)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # Complete the checkpoint in progress even if the training failed.
            self._thread.shutdown(wait=True)
