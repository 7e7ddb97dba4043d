"""What messages about labels in another form advise, which depends on the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.data.manifest import ClassInfo


@dataclass(frozen=True)
class LabelAdvice:
    """Parts of sentences about labels that are not read as they are.

    own: class of the user's own reader, which its author can change; for another reader, the data
    set must be described for the reader `folder`.
    """

    own: str = ""

    @property
    def colors(self) -> str:
        """What reads labels in colors, a clause."""
        if self.own:
            return f"`indices` of {self.own} can read the colors"
        return "a `folder` data set with `label_colors: true` reads the colors"

    @property
    def values(self) -> str:
        """What gives other values a meaning, a clause."""
        if self.own:
            return f"`values` of {self.own} must map every value that labels store"
        return "a `folder` data set maps other values with `values` and `ignore`"

    @property
    def ignored(self) -> str:
        """How one more value is ignored, a clause."""
        return f"map it to 255 in `values` of {self.own}" if self.own else "list it in `ignore`"

    def mask(self, classes: Sequence[ClassInfo]) -> str:
        """How a mask of 0 and 255 is read, the end of a sentence."""
        first, second = [entry.name for entry in classes][:2] if len(classes) > 1 else ("a", "b")
        if self.own:
            return f" in `values` of {self.own}"
        return f" with `values: {{0: {first}, 255: {second}}}` in a `folder` data set"


#: Of a reader whose labels only the reader `folder` reads in another form.
FOLDER_ADVICE = LabelAdvice()
