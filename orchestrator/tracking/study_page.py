"""Decides which table a study's page in MLflow shows: its description, report, figures and model.

A study has one page. The table of the unchanged study file always takes it. A table that was
changed by `--set` takes it only if it shows no table yet, so that trying a setting replaces no
published result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.tracking import tags as tag
from orchestrator.tracking.store import TrackingStore
from pipelines.wording import option


@dataclass(frozen=True)
class StudyPage:
    """published: the `--set` overrides of the table on the page; own: those of the command's table.
    Empty for the table of the unchanged study file."""

    published: str
    own: str

    @property
    def is_own(self) -> bool:
        """Whether the page shows the command's own table."""
        return self.published == self.own

    @property
    def note(self) -> str:
        """Why the page does not show the command's table, and how to publish it."""
        own, published = (
            f"`{settings}`" if settings else "the study file"
            for settings in (self.own, self.published)
        )
        return (
            f"This table used {own}. The study's MLflow page, report and best model still show "
            f"{published}; use {option('set')} study=NAME to publish this table separately."
        )


def find_page(store: TrackingStore, parent_id: str, overridden: Sequence[str]) -> StudyPage:
    """Return the page of the study's run; an empty page counts as the command's own.
    overridden: `Study.overridden` of the command."""
    own = " ".join(f"--set {entry}" for entry in sorted(overridden))
    tags = store.client.get_run(parent_id).data.tags
    # A page that shows the table of the study file has no such tag.
    return StudyPage(tags.get(tag.PAGE, "" if "mlflow.note.content" in tags else own), own)


def take_page(store: TrackingStore, parent_id: str, overridden: Sequence[str]) -> StudyPage:
    """Publish this command's table on the study's page if it may; see `find_page`."""
    page = find_page(store, parent_id, overridden)
    if page.own and not page.is_own:
        return page
    store.set_tags(parent_id, {tag.PAGE: page.own})  # none for the study file
    return StudyPage(page.own, page.own)
