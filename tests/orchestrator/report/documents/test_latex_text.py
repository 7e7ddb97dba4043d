"""Text as LaTeX, compiled by pdfLaTeX where there is one."""

from pathlib import Path

from orchestrator.report.documents.latex_text import latex_text, unknown_characters
from tests.support.latex import compile_latex, needs_latex

# Letters and signs that labels of methods and settings have.
USUAL = (
    "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ≤≥≠≈∞√₂²∈→←±°·"
    "\N{MINUS SIGN}\N{MULTIPLICATION SIGN}\N{PRIME}\N{OHM SIGN}\N{MICRO SIGN}éüßŁ–—…"  # noqa: RUF001
)


def test_bars_and_deltas_are_math() -> None:
    assert latex_text("Δ a|b") == r"$\Delta$ a$|$b"


def test_signs_keep_their_direction() -> None:
    assert latex_text("-0.50 a-3, +1.5 x_5 50 % \u00b1") == r"$-0.50$ a-3, $+1.5$ x\_5 50 \% $\pm$"
    assert latex_text("<>≤≥→←↑↓") == (
        r"$<$$>$$\le$$\ge$$\rightarrow$$\leftarrow$$\uparrow$$\downarrow$"
    )


def test_usual_characters_are_known() -> None:
    assert unknown_characters(USUAL) == []
    assert latex_text("λ=2, α\N{MINUS SIGN}1, x₂") == r"$\lambda$=2, $\alpha$$-$1, x$_{2}$"  # noqa: RUF001
    assert unknown_characters("é 日本日") == ["日", "本"]


@needs_latex
def test_usual_characters_compile(tmp_path: Path) -> None:
    compile_latex(tmp_path, latex_text(" ".join(USUAL)))
