"""Plain text as LaTeX: escapes, and commands for the letters and signs that pdfLaTeX lacks."""

import re
import unicodedata
from collections.abc import Sequence

_SIGNED = re.compile(r"(?<![\w.])([+-]\d[\d.]*)")

# Letters with a command of their name; the other capitals look like Latin ones.
_GREEK_SMALL = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lamda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi"),
    "omega",
)
_GREEK_CAPITAL = (
    *("gamma", "delta", "theta", "lamda", "xi", "pi", "sigma", "upsilon", "phi", "psi", "omega"),
)
_MATH = {
    "≤": r"\le",
    "≥": r"\ge",
    "≠": r"\ne",
    "≈": r"\approx",
    "\N{TILDE OPERATOR}": r"\sim",
    "≡": r"\equiv",
    "\N{MINUS SIGN}": "-",
    "\N{MULTIPLICATION SIGN}": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "∞": r"\infty",
    "√": r"\surd",
    "∈": r"\in",
    "∉": r"\notin",
    "\N{UNION}": r"\cup",
    "∩": r"\cap",
    "⊂": r"\subset",
    "∅": r"\emptyset",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "↔": r"\leftrightarrow",
    "⇒": r"\Rightarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "∑": r"\sum",
    "∏": r"\prod",
    "∂": r"\partial",
    "∇": r"\nabla",
    "∀": r"\forall",
    "∃": r"\exists",
    "∘": r"\circ",
    "°": r"^\circ",
    "⊕": r"\oplus",
    "⊗": r"\otimes",
    "\N{ASTERISK OPERATOR}": "*",
    "⋆": r"\star",
    "\N{PRIME}": "'",
    "″": "''",
    "₊": "_+",
    "₋": "_-",
    "⁺": "^+",
    "⁻": "^-",
    "ϵ": r"\epsilon",
    "ϕ": r"\phi",
    # Keyboards write these signs in place of the letters.
    "\N{MICRO SIGN}": r"\mu",
    "\N{OHM SIGN}": r"\Omega",
    "\N{INCREMENT}": r"\Delta",
    **{character: f"_{{{value}}}" for value, character in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{character: f"^{{{value}}}" for value, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}
# Accented Latin letters, dashes and quotes: `inputenc` has them.
_LATEX_KNOWS = re.compile(r"[\x00-\u017f\u2010-\u2015\u2018-\u201e\u2020-\u2022\u2026\u20ac]")


def _greek(names: Sequence[str], case: str) -> dict[str, str]:
    """Return the commands of Greek letters, by letter. case: `small` or `capital`."""
    commands = {}
    for name in names:
        command = name.replace("lamda", "lambda")  # Unicode's spelling
        command = command.capitalize() if case == "capital" else command
        letter = unicodedata.lookup(f"GREEK {case} LETTER {name}".upper())
        commands[letter] = rf"$\{command}$"
    return commands


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\u00a0": "~",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line break, a bracket would be its argument
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "*": r"$^*$",
    "|": r"$|$",  # in text, some fonts have a dash there
    **_greek(_GREEK_SMALL, "small"),
    **_greek(_GREEK_CAPITAL, "capital"),
    **{character: f"${command}$" for character, command in _MATH.items()},
}


def latex_text(text: str) -> str:
    """Escape plain text for LaTeX; signed numbers become math, so that a minus is not a hyphen."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return _SIGNED.sub(r"$\1$", escaped)


def unknown_characters(text: str) -> list[str]:
    """Return the characters at which pdfLaTeX stops. They remain as they are in the text: LuaLaTeX
    and XeLaTeX print them if the font has them."""
    return list(dict.fromkeys(c for c in text if c not in _LATEX and not _LATEX_KNOWS.match(c)))
