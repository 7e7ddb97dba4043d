"""Makes docs/quick-study.png, the picture in the README, from a storage that holds the quick study.

python docs/quick_study_picture.py [STORAGE]    (needs Chromium)
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 1060  # pixels
MARGIN = 16


def main(storage: str) -> int:
    """Stack the upper part of the report's page and the comparison of the networks."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("Chromium is missing; install it, for example with `apt install chromium`")
        return 2
    comparisons = sorted(Path(storage).glob("artifacts/*/*/artifacts/figures/comparison.png"))
    if not comparisons:
        print(f"{storage} holds no finished study with figures; run `make sweep` first")
        return 2
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        report = [sys.executable, "-m", "orchestrator.report", str(ROOT / "ablations.yaml")]
        report += ["--storage", storage, "--out", str(directory / "report")]
        subprocess.run(report, check=True)
        page = (directory / "report" / "report.html").as_uri()
        shot = directory / "page.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH},842", f"--screenshot={shot}", page]
        subprocess.run([browser, *options], check=True, capture_output=True)
        with Image.open(shot) as opened:
            table = without_border(opened.convert("RGB"))
        with Image.open(comparisons[-1]) as opened:
            figure = without_border(opened.convert("RGB"))
    width = WIDTH - 2 * MARGIN
    parts = [
        part.resize((width, round(part.height * width / part.width))) for part in (table, figure)
    ]
    height = sum(part.height for part in parts) + 3 * MARGIN
    picture = Image.new("RGB", (WIDTH, height), "white")
    top = MARGIN
    for part in parts:
        picture.paste(part, (MARGIN, top))
        top += part.height + MARGIN
    picture.quantize(256).save(ROOT / "docs" / "quick-study.png", optimize=True)
    return 0


def without_border(image: Image.Image) -> Image.Image:
    """Return the image without its white border."""
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    return image.crop(box) if box else image


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["storage"])))
