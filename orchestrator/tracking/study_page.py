"""Which table the page of a study shows: its description, documents, figures and best model.

A study has one page. The table of its file may always have it; one that `--set` makes another has
it only while no other is there, so that trying a setting replaces no result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.tracking import tags as tag
from orchestrator.tracking.store import TrackingStore


@dataclass(frozen=True)
class StudyPage:
    """shown: what makes the table on it another than the file's; asked: the same of the command's
    own table. Both are empty for the file's."""

    shown: str
    asked: str

    @property
    def is_own(self) -> bool:
        """Whether the page shows the command's own table."""
        return self.shown == self.asked

    @property
    def note(self) -> str:
        """Why the page does not show the command's table, and what would make it."""
        table, owner = (
            f"`{settings}`" if settings else "the study file"
            for settings in (self.asked, self.shown)
        )
        return (
            f"the table above is that of {table}: the study's page in MLflow, its report "
            f"and its best model stay those of {owner}; --set study=NAME has a page of its own"
        )


def find_page(store: TrackingStore, parent_id: str, overridden: Sequence[str]) -> StudyPage:
    """The page of the study's run as it is; a page that shows nothing yet is the command's own.
    overridden: as of the command's `Study`."""
    asked = " ".join(f"--set {entry}" for entry in sorted(overridden))
    tags = store.client.get_run(parent_id).data.tags
    # A page that says nothing of it is from before there was this tag.
    return StudyPage(tags.get(tag.PAGE, "" if "mlflow.note.content" in tags else asked), asked)


def take_page(store: TrackingStore, parent_id: str, overridden: Sequence[str]) -> StudyPage:
    """The page of the study's run, taken where this command may have it, see `find_page`."""
    page = find_page(store, parent_id, overridden)
    if page.asked and not page.is_own:
        return page
    store.set_tags(parent_id, {tag.PAGE: page.asked})
    return StudyPage(page.asked, page.asked)
