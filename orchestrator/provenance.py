"""Where a result comes from: the commit of the working copy, if there is one."""

import subprocess
from pathlib import Path


def git_commit(directory: Path) -> str | None:
    """The commit checked out in `directory`, `-dirty` behind it where tracked files differ from it;
    None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
