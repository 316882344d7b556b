"""Draw docs/figures/report.png: the top of the report that docs/report.md explains, as Chromium shows it.

Usage: python tools/report_picture.py    (a few seconds; needs Chromium or Chrome)
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parents[1] / "docs" / "figures" / "report.png"

#: The run whose audit is shown, as on docs/wrongly-sure.md.
RUN = "--data digits --model mlp --train-limit 200 --epochs 60 --method vanilla --device cpu --quiet"

#: Width and height in pixels, of the window and of the picture.
SIZE = (1000, 1150)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def report(run: Path) -> Path:
    """Train the run, audit it, and return the report."""
    for words in (["train", *RUN.split(), "--out", run], ["audit", run, "--quiet"]):
        subprocess.run([sys.executable, "-m", "robcal", *words], check=True, stdout=subprocess.DEVNULL)
    return run / "audit.html"


def picture(page: Path, out: Path) -> None:
    """Write the top of a page as a PNG of few colours.

    Raises:
        FileNotFoundError: if there is no browser.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"none of {', '.join(BROWSERS)} is installed")
    size = ",".join(map(str, SIZE))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
    shot = page.with_suffix(".png")
    subprocess.run(
        [browser, *flags, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=60
    )
    with Image.open(shot) as image:
        image.convert("RGB").quantize(64).save(out, optimize=True)


def main() -> None:
    """Write the picture."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picture(report(Path(folder) / "run"), PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
