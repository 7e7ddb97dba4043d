"""Writes docs/results/STUDY/ from a storage that holds the finished study.

python docs/study_results.py STUDY.yaml STORAGE [--set KEY=VALUE ...]

The directory then holds the report (page, tables, charts as SVG), the figures, and the
supplementary material as a zip file, all made by the project's own commands.
"""

import argparse
import base64
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = "tables/report.html"
TABLES = ("report.html", "table.md", "table.csv", "table.tex")
FIGURES = ("comparison", "features")
# Charts of the page, by their label, and the files that they become.
CHARTS = {
    "Differences between rows": "differences.svg",
    "mIoU against FLOPs": "accuracy.svg",
    "mIoU % over epochs": "miou.svg",
}


def main() -> int:
    """Write the directory; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY.yaml")
    parser.add_argument("storage", type=Path, metavar="STORAGE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    out = ROOT / "docs" / "results" / options.study.stem
    shutil.rmtree(out, ignore_errors=True)
    arguments = [str(options.study), "--storage", str(options.storage)]
    for override in options.set:
        arguments += ["--set", override]
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "orchestrator.bundle", *arguments]
    subprocess.run([*command, "--out", str(out / "supplement.zip")], check=True)
    with zipfile.ZipFile(out / "supplement.zip") as bundle:
        for name in TABLES:
            (out / name).write_bytes(bundle.read(f"tables/{name}"))
    leave_out_page(out / "supplement.zip")
    page = (out / "report.html").read_text(encoding="utf-8")
    for label, name in CHARTS.items():
        chart = re.search(rf'<svg role="img" aria-label="{re.escape(label)}".*?</svg>', page, re.S)
        if chart is None:
            print(f"the page has no chart {label!r}")
            return 1
        svg = chart[0].replace("<svg ", '<svg style="background: white" ', 1)
        (out / name).write_text(svg + "\n", encoding="utf-8")
    (out / "report.html").write_text(with_smaller_images(page), encoding="utf-8")
    for name in FIGURES:
        found = sorted(options.storage.glob(f"artifacts/*/*/artifacts/figures/{name}.png"))
        if not found:
            print(f"{options.storage} has no figure {name!r}; did the study end?")
            return 1
        with Image.open(found[-1]) as figure:
            figure.convert("RGB").quantize(256).save(out / f"{name}.png", optimize=True)
    print(f"written: {out.relative_to(ROOT)}")
    return 0


def with_smaller_images(page: str) -> str:
    """Return the page with its embedded images compressed more, so that it is below 1 MiB. The same
    figures are beside it."""

    def smaller(match: re.Match[str]) -> str:
        target = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
            image.save(target, "JPEG", quality=70, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"

    return re.sub(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", smaller, page)


def leave_out_page(archive: Path) -> None:
    """Remove the page, which is beside the zip file and makes up half of it, from a bundle."""
    with zipfile.ZipFile(archive) as bundle:
        files = {name: bundle.read(name) for name in bundle.namelist()}
    del files[PAGE]
    description = json.loads(files["bundle.json"])
    del description["files"][PAGE]
    files["bundle.json"] = (json.dumps(description, indent=1) + "\n").encode()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)


if __name__ == "__main__":
    sys.exit(main())
