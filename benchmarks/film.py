"""An animated SVG of a terminal, without scripts and fonts of its own, as GitHub shows it.

All frames lie side by side in a strip, which CSS moves behind a window. Rows that are equal are
defined once. Where nothing moves, in print or for people who asked for less motion, the last frame
is shown.
"""

from collections.abc import Sequence
from html import escape

# The runs of a row: text, colour, background, whether it is bold.
Run = tuple[str, str, str, bool]
Row = tuple[Run, ...]

# Pixels of a cell, of the margin, and of the bar above the terminal.
WIDTH, HEIGHT, MARGIN, BAR = 8.4, 18, 16, 34
SIZE = 14
FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
GROUND, TEXT, FRAME = "#16181d", "#d6d9de", "#23262d"
# The names that pyte has for the colours of terminals; others are hexadecimal already.
COLOURS = {
    "black": "#5c6370",
    "red": "#ef6b73",
    "green": "#8ec07c",
    "brown": "#e5c07b",
    "yellow": "#e5c07b",
    "blue": "#6cb2f5",
    "magenta": "#c891e8",
    "cyan": "#5cc4cf",
    "white": "#d6d9de",
}


class Film:
    """Frames of a terminal and how long each of them is shown, in seconds."""

    def __init__(self, columns: int, lines: int) -> None:
        self._columns, self._lines = columns, lines
        self._frames: list[tuple[Sequence[Row], float]] = []

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self._frames)

    def add(self, rows: Sequence[Row], seconds: float) -> None:
        """Show ``rows``, one for each line. If they are those of the previous frame, that one is
        shown longer."""
        if self._frames and self._frames[-1][0] == rows:
            rows, before = self._frames.pop()
            seconds += before
        self._frames.append((rows, seconds))

    def svg(self) -> str:
        """The film, which begins again at its end."""
        inner_width, inner_height = self._columns * WIDTH, self._lines * HEIGHT
        width, height = inner_width + 2 * MARGIN, inner_height + BAR + MARGIN
        names: dict[Row, str] = {}
        frames = [
            self._frame(number, rows, names, width) for number, (rows, _) in enumerate(self._frames)
        ]
        rows = [f'<g id="{name}">{_drawn(row)}</g>' for row, name in names.items()]
        last = -width * (len(self._frames) - 1)
        style = (
            f"text{{font:{SIZE}px {FONT};white-space:pre}}"
            f".b{{font-weight:bold}}"
            f"#strip{{transform:translateX({last:.1f}px);animation:film {self.seconds:.2f}s "
            f"step-end infinite}}"
            f"@keyframes film{{{self._keyframes(width)}}}"
            "@media (prefers-reduced-motion:reduce),print{#strip{animation:none}}"
        )
        dots = "".join(
            f'<circle cx="{18 + 20 * i}" cy="16" r="6" fill="{colour}"/>'
            for i, colour in enumerate(("#ef6b73", "#e5c07b", "#8ec07c"))
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
                f'width="{width:g}" '
                f'height="{height:g}" role="img" aria-label="recording of a terminal">',
                f"<style>{style}</style>",
                f'<rect width="100%" height="100%" rx="8" fill="{GROUND}" stroke="{FRAME}"/>{dots}',
                f"<defs>{''.join(rows)}</defs>",
                f'<svg x="{MARGIN}" y="{BAR}" width="{inner_width:g}" height="{inner_height}">',
                # The attribute is for programs that know no CSS.
                (
                    f'<g id="strip" transform="translate({last:.1f})" '
                    f'fill="{TEXT}">{"".join(frames)}</g>'
                ),
                "</svg></svg>\n",
            ]
        )

    def _frame(self, number: int, rows: Sequence[Row], names: dict[Row, str], width: float) -> str:
        """A frame of the strip; rows that were not there before get a name."""
        uses = []
        for line, row in enumerate(rows):
            if _drawn(row):
                name = names.setdefault(row, f"r{len(names):x}")
                uses.append(f'<use href="#{name}" y="{line * HEIGHT}"/>')
        return f'<g transform="translate({number * width:.1f})">{"".join(uses)}</g>'

    def _keyframes(self, width: float) -> str:
        """Where the strip stands from which share of the film on."""
        steps, at = [], 0.0
        for number, (_, seconds) in enumerate(self._frames):
            steps.append(
                f"{100 * at / self.seconds:.3f}%{{transform:translateX({-number * width:.1f}px)}}"
            )
            at += seconds
        return "".join(steps)


def _drawn(row: Row) -> str:
    """The texts and backgrounds of a row, each as wide as its cells whatever the font; empty if
    there is nothing."""
    parts, column = [], 0
    for text, colour, ground, bold in row:
        left = column * WIDTH
        if ground != "default":
            fill = _colour(ground)
            parts.append(
                f'<rect x="{left:g}" width="{len(text) * WIDTH:g}" height="{HEIGHT}" '
                f'fill="{fill}"/>'
            )
        stripped = text.strip(" ")
        if stripped:
            start = left + (len(text) - len(text.lstrip(" "))) * WIDTH
            looks = (' class="b"' if bold else "") + (
                "" if colour == "default" else f' fill="{_colour(colour)}"'
            )
            length = f'textLength="{len(stripped) * WIDTH:g}" lengthAdjust="spacingAndGlyphs"'
            parts.append(
                f'<text x="{start:g}" y="{HEIGHT - 4}" {length}{looks}>{escape(stripped)}</text>'
            )
        column += len(text)
    return "".join(parts)


def _colour(name: str) -> str:
    return COLOURS.get(name.removeprefix("bright"), f"#{name}")
