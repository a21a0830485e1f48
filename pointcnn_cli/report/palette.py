"""The colours of pages and figures, for a light and a dark background; told apart by colour-blind eyes.

Lines and marks are from the palette of Okabe and Ito (2008), lightened for the dark; wherever colour carries meaning, a
form, a dash or a word carries it too.
"""

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171c"),
    "panel": ("#f5f7f9", "#1d2128"),
    "ink": ("#1b1f24", "#e8eaed"),
    "soft": ("#57606a", "#a9b1bb"),
    "line": ("#d5d9df", "#3d4450"),
    "train": ("#0072b2", "#56b4e9"),
    "validation": ("#d55e00", "#ff9a4d"),
    "test": ("#009e73", "#2fc79b"),
    "ceiling": ("#8a3d9e", "#d3a4e6"),
    "chance": ("#6a6f76", "#b3b9c1"),
    "heat": ("#00528f", "#2f6fa8"),
    "on-heat": ("#fefefe", "#fffffe"),
    "bad": ("#b3261e", "#ff8f86"),
    "caution": ("#7d5200", "#f0b840"),
    "good": ("#17702f", "#5ccf90"),
}
"""Name: (on light, on dark). Figures are drawn in the light ones; a page replaces them by `var(--name)`."""

VELOCITY = ("#0a76b5", "#3f8fbd", "#8c8c8c", "#d98a4a", "#cf5c06")
"""From most negative over zero to most positive; each is seen on both backgrounds, and none is replaced."""


def light(name: str) -> str:
    """The colour that figures are drawn in."""
    return COLOURS[name][0]


def list_variables(dark: bool) -> str:
    """The colours as declarations of CSS variables."""
    return "".join(f"--{name}:{pair[dark]};" for name, pair in COLOURS.items())
