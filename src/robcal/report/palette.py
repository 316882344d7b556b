"""The colours of the page, by role, for light and dark: what the figures' `var(--role)` mean.

Methods differ in hue and lightness and each has a marker too; over- and under-confidence are orange and blue, told
apart by every common kind of colour vision; levels run along the perceptually uniform "plasma" map, cut where it would
fade into the background.
"""

from __future__ import annotations

from robcal.report.svg import LEVEL_STEPS

#: role → (light, dark).
PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#f5f6f8", "#101318"),
    "surface": ("#ffffff", "#181c23"),
    "ink": ("#1a1f27", "#e8ebf0"),
    "muted": ("#566070", "#a3adbb"),
    "grid": ("#e3e6eb", "#2c323c"),
    "line": ("#d5dae1", "#333a46"),
    "accent": ("#0b6b5d", "#4fc9b0"),
    "over": ("#b5480f", "#f29a63"),
    "under": ("#2563a8", "#74b3f4"),
    "method-0": ("#5b6675", "#9ba8b9"),
    "method-1": ("#00755f", "#3fc9a5"),
    "method-2": ("#8336a3", "#c992e6"),
    "method-3": ("#8f6400", "#dcb24c"),
    "method-4": ("#bb2068", "#f583b5"),
    "method-5": ("#2a5fc4", "#86b0ff"),
    "method-6": ("#7a452a", "#d19a7c"),
    "method-7": ("#1b7787", "#5fc6d6"),
}

#: Every tenth of matplotlib's "plasma", which the levels' colours are interpolated from.
_PLASMA = ("#0d0887", "#41049d", "#6a00a8", "#8f0da4", "#b12a90", "#cc4778", "#e16462", "#f2844b", "#fca636", "#fcce25",
           "#f0f921")  # fmt: skip
#: Where the map starts and ends, from the least to the most robust level: (light, dark).
_LEVEL_ENDS = ((0.0, 0.78), (1.0, 0.30))


def theme_css() -> str:
    """Return the custom properties of both themes; print always uses the light one."""
    light, dark = (_properties(theme) for theme in (0, 1))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def theme_colours(theme: int) -> dict[str, str]:
    """Return role → colour of the light (0) or dark (1) theme."""
    start, end = _LEVEL_ENDS[theme]
    levels = {f"level-{step}": _along(start + (end - start) * step / (LEVEL_STEPS - 1)) for step in range(LEVEL_STEPS)}
    return {role: pair[theme] for role, pair in PALETTE.items()} | levels


def _properties(theme: int) -> str:
    return " ".join(f"--{role}: {value};" for role, value in theme_colours(theme).items())


def _along(place: float) -> str:
    """Return the colour at `place` in [0, 1] of the map, interpolated in sRGB."""
    scaled = min(max(place, 0.0), 1.0) * (len(_PLASMA) - 1)
    below = min(int(scaled), len(_PLASMA) - 2)
    weight = scaled - below
    ends = [[int(_PLASMA[at][i : i + 2], 16) for i in (1, 3, 5)] for at in (below, below + 1)]
    return "#" + "".join(f"{round(a + (b - a) * weight):02x}" for a, b in zip(*ends, strict=True))
