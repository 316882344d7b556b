"""From a matplotlib figure to an SVG that lives in a page, and the colours of both by role, for light and dark.

Figures are drawn with sentinel colours, one for each role in `ROLES`; here each becomes `var(--role)`, so the page's
style sheet decides what it looks like in light, dark and print. Text stays text, in the page's font. matplotlib is
imported when the first figure is drawn, not before, and without it a page has its tables only; no global setting of it
is left changed.

Methods differ in hue and lightness and each has a marker too; over- and under-confidence are orange and blue, told
apart by every common kind of colour vision; levels run along the perceptually uniform "plasma" map, cut where it would
fade into the background.
"""

from __future__ import annotations

import html
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Width of every figure in user units; the page shows it at 340 to 460 px.
WIDTH = 360.0
#: Font size in user units: at least 10 px at the narrowest.
FONT_SIZE = 11.0
#: How many methods have a colour and a marker of their own.
METHOD_COLOURS = 8
#: Steps of the sequential palette of the levels.
LEVEL_STEPS = 21

#: Roles of the theme; each is a custom property of the page's style sheet.
ROLES: tuple[str, ...] = (
    *("ink", "muted", "grid", "surface", "over", "under"),
    *(f"method-{i}" for i in range(METHOD_COLOURS)),
    *(f"level-{i}" for i in range(LEVEL_STEPS)),
)
_SENTINEL = "#0a07{:02x}"
_SENTINEL_PATTERN = re.compile(r"#0a07([0-9a-f]{2})")
_FONT_PATTERN = re.compile(r"font: (?:[a-z0-9]+ )*([0-9.]+)px[^;]*|; *font-family: [^;]*")


def colour(role: str) -> str:
    """Return the sentinel to draw with for a role of the theme."""
    return _SENTINEL.format(ROLES.index(role))


def method_role(position: int) -> str:
    """Return the colour role of the method at this position: the first has its own, the others' repeat after seven."""
    return f"method-{position and 1 + (position - 1) % (METHOD_COLOURS - 1)}"


def level_role(level: int, num_levels: int) -> str:
    """Return the colour role of a level: the sequential palette from the least to the most robust."""
    step = 0 if num_levels < 2 else round(level * (LEVEL_STEPS - 1) / (num_levels - 1))
    return f"level-{step}"


def placeholder(position: int) -> str:
    """Return what to draw in place of a user's name, which may hold dollar signs or letters that the font lacks."""
    return f"<{position}>"


def draw_svg(
    draw: Callable[[Figure], None], *, key: str, height: float, title: str, description: str, names: Sequence[str] = ()
) -> str:
    """Draw a figure of `WIDTH` x `height` points as an inline SVG element; the same input gives the same bytes.

    Ids start with `key`; `names` are texts of the user, drawn as `placeholder(0)`, `placeholder(1)`, … Without
    matplotlib there is a paragraph that says what is missing.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        told = f"“{title}” is drawn by matplotlib, which is not installed: pip install 'robcal[report]'."
        return f'<p class="note">{html.escape(told, quote=False)}</p>'

    with matplotlib.rc_context(_settings()):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), key=key, title=title, description=description, names=names)


def add_axes(figure: Figure, *, left: float, bottom: float, top: float, right: float = 8.0) -> Axes:
    """Add axes with margins in user units, in the report's style: light horizontal grid, no box."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=colour("grid"), linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(colour("muted"))
    axes.tick_params(axis="both", length=0, pad=4, labelcolor=colour("muted"), labelsize=FONT_SIZE)
    axes.tick_params(axis="x", length=3, color=colour("muted"))
    return axes


def label(figure: Figure, x: float, y: float, text: str, *, role: str = "muted", align: str = "left") -> None:
    """Write `text` (never read as mathematics) with its baseline at (x, y) in user units from the lower left."""
    width, height = figure.get_size_inches() * 72
    figure.text(
        x / width, y / height, text, color=colour(role), fontsize=FONT_SIZE, ha=align, va="baseline", parse_math=False
    )


def _settings() -> dict[Any, Any]:
    """Return Matplotlib's own defaults, plus what makes the SVG text, small and reproducible."""
    import matplotlib

    style_keys = {key: value for key, value in matplotlib.rcParamsDefault.items() if key.split(".")[0] in _STYLE_GROUPS}
    return style_keys | {
        "svg.fonttype": "none",
        "svg.hashsalt": "robcal",
        "font.family": ["DejaVu Sans"],
        "font.size": FONT_SIZE,
        "text.usetex": False,
        "path.simplify": True,
    }


#: Groups of settings that shape a figure (the backend and the interactive ones are none of ours).
_STYLE_GROUPS = frozenset(
    {"axes", "figure", "font", "grid", "lines", "mathtext", "patch", "path", "savefig", "svg", "text", "xtick", "ytick"}
)


def _for_page(source: bytes, *, key: str, title: str, description: str, names: Sequence[str]) -> str:
    """Return the SVG without namespaces, metadata and style sheet, with colours of the theme and prefixed ids."""
    root = ET.fromstring(source)
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    texts = {placeholder(position): name for position, name in enumerate(names)}
    for element in root.iter():
        if element.text in texts:
            element.text = texts[element.text]
        element.tag = _local(element.tag)
        element.attrib = {_local(name): _themed(name, value, key) for name, value in element.attrib.items()}
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-desc", "class": "plot"}
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(position, element)
    return ET.tostring(root, encoding="unicode")


def _themed(name: str, value: str, key: str) -> str:
    """Return an attribute's value with its ids prefixed and its colours and fonts left to the page."""
    local = _local(name)
    if local == "id":
        return f"{key}-{value}"
    if local == "href":
        return f"#{key}-{value.removeprefix('#')}"
    if local == "clip-path":
        return value.replace("url(#", f"url(#{key}-")
    if local == "style":
        value = _FONT_PATTERN.sub(lambda match: f"font-size: {match[1]}px" if match[1] else "", value)
        return _SENTINEL_PATTERN.sub(lambda match: f"var(--{ROLES[int(match[1], 16)]})", value)
    return value


def _local(tag: str) -> str:
    """Return a tag's or attribute's name without its namespace."""
    return tag.rsplit("}", 1)[-1]


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
    light, dark = (" ".join(f"--{role}: {value};" for role, value in theme_colours(theme).items()) for theme in (0, 1))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def theme_colours(theme: int) -> dict[str, str]:
    """Return role → colour of the light (0) or dark (1) theme."""
    start, end = _LEVEL_ENDS[theme]
    levels = {f"level-{step}": _along(start + (end - start) * step / (LEVEL_STEPS - 1)) for step in range(LEVEL_STEPS)}
    return {role: pair[theme] for role, pair in PALETTE.items()} | levels


def _along(place: float) -> str:
    """Return the colour at `place` in [0, 1] of the map, interpolated in sRGB."""
    scaled = min(max(place, 0.0), 1.0) * (len(_PLASMA) - 1)
    below = min(int(scaled), len(_PLASMA) - 2)
    weight = scaled - below
    ends = [[int(_PLASMA[at][i : i + 2], 16) for i in (1, 3, 5)] for at in (below, below + 1)]
    return "#" + "".join(f"{round(a + (b - a) * weight):02x}" for a, b in zip(*ends, strict=True))
