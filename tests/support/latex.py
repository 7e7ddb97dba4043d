"""Compiles LaTeX, where TeX is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

# TeX is no Python package, so `make install-test` cannot install it; `.ci/run` does.
needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="needs pdflatex (Debian's texlive-latex-base and texlive-latex-recommended)",
)


def compile_latex(directory: Path, text: str, packages: str = "") -> None:
    """Compile a document with this text; fails the test with TeX's output if it does not compile.

    packages: names, separated by commas.
    """
    used = f"\\usepackage{{{packages}}}" if packages else ""
    (directory / "paper.tex").write_text(
        f"\\documentclass{{article}}{used}\\begin{{document}}\n{text}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    process = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-2000:]
