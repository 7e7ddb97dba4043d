"""README.md and docs/: links, anchors, paths, commands and study files in them are valid."""

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from orchestrator.study.load import load_study

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# test_reference.py checks the generated reference.
WRITTEN = [document for document in DOCUMENTS if document.parent.name != "reference"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(
    r"(?:models|pipelines|orchestrator|studies|examples|benchmarks|clusters|docs|tests)/[\w./-]*"
)
MODULE = re.compile(r"(?:models|pipelines|orchestrator|benchmarks)\.[\w.]+")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def prose(document: Path) -> str:
    """Return a document without its code blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def links(document: Path) -> list[str]:
    """Return the relative targets of links and images."""
    text = re.sub(r"`[^`]*`", "", re.sub(r"\[`([^`]*)`\]", r"[\1]", prose(document)))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and the site generate them."""
    slugs: dict[str, int] = {}
    for title in re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        slugs[slug] = slugs.get(slug, -1) + 1
        if slugs[slug]:
            slugs[f"{slug}-{slugs[slug]}"] = 0
    return set(slugs)


def code(document: Path) -> Iterator[list[str]]:
    """Yield the words of each inline code span and each shell block."""
    for span in re.findall(r"`([^`\n]+)`", prose(document)):
        yield span.split()
    for language, block in FENCE.findall(document.read_text(encoding="utf-8")):
        if language in ("sh", "bash"):
            yield block.split()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve_to_files_and_headings(document: Path) -> None:
    wrong = []
    for link in links(document):
        target, _, anchor = link.partition("#")
        path = Path(os.path.normpath(document.parent / target)) if target else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(link)
        elif DOCS in document.parents and DOCS not in path.parents:
            wrong.append(f"{link} is not part of the site")
    assert not wrong


@pytest.mark.parametrize("document", WRITTEN, ids=name_of)
def test_paths_and_modules_exist(document: Path) -> None:
    wrong = []
    for words in code(document):
        wrong += [word for word in words if PATH.fullmatch(word) and not (ROOT / word).exists()]
        modules = [after for before, after in pairwise(words) if before == "-m"]
        for module in filter(MODULE.fullmatch, modules):
            path = ROOT / module.replace(".", "/")
            if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
                wrong.append(module)
    assert not wrong


@pytest.mark.parametrize("document", WRITTEN, ids=name_of)
def test_study_files_are_valid(document: Path, tmp_path: Path) -> None:
    for language, block in FENCE.findall(document.read_text(encoding="utf-8")):
        values = yaml.safe_load(block) if language == "yaml" else None
        if not isinstance(values, dict) or not {"study", "variants"} <= values.keys():
            continue
        if "extends" not in values:
            file = tmp_path / "study.yaml"
            file.write_text(block, encoding="utf-8")
            assert load_study(file).trials


def test_site_navigation_has_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    shown = re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE)
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    tables = [page for page in pages if page.match("results/*/table.md")]  # `not_in_nav`
    assert sorted(shown) == sorted(page.as_posix() for page in pages if page not in tables)


def test_readme_fits_one_screen() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 4500
