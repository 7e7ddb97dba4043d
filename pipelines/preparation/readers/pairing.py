"""Pair images and labels by their file names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.preparation.images.files import (
    IMAGE_EXTENSIONS,
    FolderContent,
    normalized,
    read_lines,
    search,
)
from pipelines.preparation.readers.reader import Listing, Record
from pipelines.wording import counted, first_names


@dataclass(frozen=True)
class Suffixes:
    """The ends of file names that images and labels add to the name they share.

    A suffix may include the extension, as `_mask.png` or `.png` does. Lower and upper case are
    equal.
    """

    image: str = ""
    label: str = ""


def pair_files(
    split: str, images: Path, labels: Path | None, suffixes: Suffixes | None = None
) -> Listing:
    """Pair the images and labels below two folders by relative path without suffix.

    An image or label without its counterpart becomes a record, too; the missing file is reported
    when the record is read. Images or labels that share a name are reported and left out.
    """
    suffixes = suffixes or Suffixes()
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            return Listing(problems=[f"{split}: {folder}: no such folder"], splits={split})
    shared = labels is not None and images.resolve() == labels.resolve()
    if shared and not (suffixes.image or suffixes.label):
        return Listing(problems=[_one_folder(split, images)], splits={split})
    content = search(images)
    excluded = suffixes.label if shared else ""
    images_by_name, others = _by_name(content, images, suffixes.image, excluded)
    listing = _listing(split, images, content)
    if not images_by_name:
        notes = "; ".join(content.notes())
        with_suffix = f" that end in {suffixes.image!r} (`image_suffix`)" if suffixes.image else ""
        end = f"; {notes}" if notes else ""
        listing.problems.append(f"{split}: {images}: contains no images{with_suffix}{end}")
        return listing
    if labels is None:
        labels_by_name: dict[str, list[Path]] = {}
        listing.notes += _suffix_note(split, images, others, suffixes.image)
    else:
        if not shared:
            listing.notes += _suffix_note(split, images, others, suffixes.image)
            content = search(labels)
            listing.add(_listing(split, labels, content))
        excluded = suffixes.image if shared else ""
        labels_by_name, unpaired = _by_name(content, labels, suffixes.label, excluded)
        # In a shared folder, the images are among the files that do not end as labels do.
        known = set(others)
        others = [file for file in unpaired if not shared or file in known]
        ends = (suffixes.image, suffixes.label) if shared else (suffixes.label,)
        listing.notes += _suffix_note(split, labels, others, *ends)
        hint = _suffix_hint(images_by_name, labels_by_name)
        if hint:
            listing.problems.append(f"{split}: {labels}: {hint}")
            return listing
    for name in sorted({*images_by_name, *labels_by_name}):
        expected = images / f"{name}{_with_extension(suffixes.image, '.jpg')}"
        image = images_by_name.get(name, [expected])
        expected = (labels or images) / f"{name}{_with_extension(suffixes.label, '.png')}"
        label: list[Path] | list[None] = labels_by_name.get(name, [expected])
        if labels is None:
            label = [None]
        for kind, files in (("images", image), ("labels", label)):
            if len(files) > 1:
                listing.problems.append(
                    f"{split}/{name}: {len(files)} {kind} have this name, "
                    f"{first_names(files, 3)}; keep one of them"
                )
        if len(image) == len(label) == 1 and not any(map(_is_broken_link, (*image, *label))):
            listing.records.append(Record(name, split, image[0], label[0]))
    return listing


def _is_broken_link(file: Path | None) -> bool:
    """Whether `search` has reported the file as a link without a target."""
    return file is not None and file.is_symlink() and not file.exists()


def _listing(split: str, folder: Path, content: FolderContent) -> Listing:
    """Return what is to be reported about a searched folder."""
    return Listing(
        problems=[f"{split}: {problem}" for problem in content.problems],
        notes=[f"{split}: {folder}: {note}" for note in content.notes()],
        splits={split},
    )


def _by_name(
    content: FolderContent, folder: Path, suffix: str, excluded: str
) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the images that end in `suffix`, by relative path without it, and the other images.

    excluded: the suffix of the other kind of files, if they are in the same folder.
    """
    files: dict[str, list[Path]] = {}
    others: list[Path] = []
    for path in content.images:
        stem, other = _stem(path, suffix), _stem(path, excluded) if excluded else None
        # Of a name that ends in both suffixes, such as `.png` and `_mask.png`, the longer counts.
        if stem is None or (other is not None and len(other) <= len(stem)):
            others.append(path)
            continue
        name = normalized((path.relative_to(folder).parent / stem).as_posix())
        files.setdefault(name, []).append(path)
    return files, others


def _stem(path: Path, suffix: str) -> str | None:
    """Return a file's name without `suffix` and extension; None if it does not end so."""
    whole, end = normalized(path.name if _has_extension(suffix) else path.stem), normalized(suffix)
    stem = whole[: len(whole) - len(end)]
    return stem if stem and whole[len(stem) :].lower() == end.lower() else None


def _suffix_note(split: str, folder: Path, files: Sequence[Path], *suffixes: str) -> list[str]:
    """Return one sentence about files that have none of the suffixes, if there are any."""
    if not files:
        return []
    ends = " or ".join(repr(suffix) for suffix in suffixes)
    verb = "does" if len(files) == 1 else "do"
    named = first_names((file.name for file in files), 2)
    return [f"{split}: {folder}: {counted(len(files), 'file')} {verb} not end in {ends} ({named})"]


def _has_extension(suffix: str) -> bool:
    return Path(f"name{suffix}").suffix.lower() in IMAGE_EXTENSIONS


def _with_extension(suffix: str, extension: str) -> str:
    return suffix if _has_extension(suffix) else f"{suffix}{extension}"


def _common_suffix(images: Sequence[str], others: Iterable[str], least: float) -> str | None:
    """Return the text that, added to more than the share `least` of the names `images`, gives names
    in `others`."""
    others = sorted(others)
    counts: Counter[str] = Counter()
    for name in images:
        counts.update({other.removeprefix(name) for other in others if other.startswith(name)})
    counts.pop("", None)
    if not counts:
        return None
    # Of equally frequent suffixes the shortest: `_mask`, rather than part of a longer name.
    best = min(counts, key=lambda suffix: (-counts[suffix], len(suffix), suffix))
    return best if counts[best] > least * len(images) else None


def _suffix_hint(images: dict[str, list[Path]], labels: dict[str, list[Path]]) -> str | None:
    """Return a sentence that names the suffix, if no image has a label but a suffix explains it."""
    if not labels or images.keys() & labels.keys():
        return None
    for key, kind, shorter, longer in (
        ("label_suffix", "label", images, labels),
        ("image_suffix", "image", labels, images),
    ):
        suffix = _common_suffix(sorted(shorter)[:_COMPARED], longer, 0.5)
        if suffix:
            other = "image" if kind == "label" else "label"
            example = longer[next(name for name in sorted(longer) if name.endswith(suffix))][0]
            return (
                f"each {kind} is named like its {other} with {suffix!r} added, such as "
                f"{example.name}; set `{key}: {suffix}` in dataset.yaml"
            )
    return None


# Names that are compared with all others to find a suffix.
_COMPARED = 50


def _one_folder(split: str, folder: Path) -> str:
    """Return a sentence about images and labels in one folder, with the setting that helps."""
    content = search(folder)
    names = sorted(_by_name(content, folder, "", "")[0])
    suffix = _common_suffix(names[:_COMPARED], names, 0)
    extensions = {path.suffix.lower() for path in content.images}
    if suffix and sum(name.endswith(suffix) for name in names) * 2 >= len(names) - 1:
        setting = f"set `label_suffix: {suffix}` in dataset.yaml"
    elif ".png" in extensions and len(extensions) > 1:
        # Images may have any other extension: .jpg, .JPG and .jpeg.
        setting = "set `label_suffix: .png` in dataset.yaml"
    else:
        setting = "set `label_suffix` in dataset.yaml to the end of the labels' names, or use two"
        setting += " folders"
    return (
        f"{split}: images and labels are in the same folder, {folder}, so that each image would "
        f"be its own label; {setting}"
    )


def select_listed(
    listing: Listing, split: str, names: Path, source: Path, folders: Sequence[Path]
) -> Listing:
    """Return the records that a file lists, one name per line, in order.

    A name may have an extension, and may be a path from `source` or from the list's own directory
    through one of `folders`, those of the split's images and labels, or an absolute path. A line
    may also hold an image and its label, as the lists of DeepLab and SegNet do.
    """
    by_name = {record.identifier: record for record in listing.records}
    for record in listing.records:
        # Names as the files have them, with the suffixes of images and labels.
        for file, folder in zip((record.image, record.label), folders, strict=False):
            if file is not None:
                name = normalized(file.relative_to(folder).as_posix())
                by_name.setdefault(name, record)
                by_name.setdefault(name.removesuffix(file.suffix), record)
    prefixes = [
        normalized(start.as_posix()) + "/"
        for folder in folders
        for start in (
            *(Path(os.path.relpath(folder, parent)) for parent in (source, names.parent)),
            folder.absolute(),
            folder.resolve(),
        )
    ]

    def find(name: str) -> Record | None:
        name = name.removeprefix("./")
        # `/JPEGImages/a.jpg` in published lists is a path from the data set's folder.
        paths = (name, name.lstrip("/"))
        within = [
            path.removeprefix(start)
            for path in paths
            for start in prefixes
            if path.startswith(start)
        ]
        candidates = [name, *within]
        candidates += [
            candidate.rpartition(".")[0]
            for candidate in candidates
            if PurePosixPath(candidate).suffix.lower() in IMAGE_EXTENSIONS
        ]
        return next((by_name[each] for each in candidates if each in by_name), None)

    selected = listing.without_records()
    try:
        lines = read_lines(names)
    except (OSError, ValueError) as error:
        selected.problems.append(f"{split}: {names}: cannot be read as a list of names ({error})")
        return selected
    for number, line in enumerate(lines, start=1):
        name = normalized(line)
        columns = name.split()
        found = find(name)
        if found is None and len(columns) == 2:
            image, label = find(columns[0]), find(columns[1])
            found = image if image is label else None
        if found is not None:
            selected.records.append(found)
        elif name:
            problem = _not_listed(name, folders)
            selected.problems.append(f"{split}: {names}:{number}: {problem}")
    if not selected.records and not selected.problems:
        selected.problems.append(f"{split}: {names}: lists no samples")
    return selected


def _not_listed(name: str, folders: Sequence[Path]) -> str:
    """Return a sentence about an entry of a list that names no sample of the split."""
    if os.path.isabs(name) and os.path.isfile(name):
        searched = " or ".join(map(str, folders))
        return f"{name!r} is not below {searched}, the folders of the split; list names in them"
    return f"no image or label named {name!r}"
