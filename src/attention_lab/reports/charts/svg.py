"""Charts as SVG elements, which keep the size of their text at any width.

Horizontal places are percentages of the chart's width, vertical places are pixels. Text outside the
axes is in the margins of the element.
"""

from collections.abc import Iterable, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from attention_lab.reports.charts.axis import Axis
from attention_lab.reports.charts.styles import colour, fill_colour, is_hollow

#: The width of a chart on a phone, the width of a character and the height of a line, in pixels.
NARROWEST, CHARACTER, LINE_HEIGHT = 300, 6.6, 17
#: The most characters of a label in a chart.
_LONGEST = 34
#: The width of the view box of a path, which is stretched to that of the chart.
_STRETCHED = 1000
#: The most groups whose values a description lists.
_MAX_DESCRIBED = 12

Point = tuple[float, float]


class Chart:
    """One pair of axes, in an SVG element.

    Args:
        description: what the chart shows, with its numbers, for readers who do not see it.
        height: the height between the axes, in pixels.
        x: the horizontal axis.
        y: the vertical axis; None for rows, whose vertical places are in pixels.
        margins: the pixels above, to the right of, below and to the left of the axes.
    """

    def __init__(
        self,
        description: str,
        height: float,
        x: Axis,
        y: Axis | None = None,
        margins: tuple[int, int, int, int] = (34, 16, 46, 52),
    ) -> None:
        self.x, self.y, self.height = x, y, height
        _, right, _, left = margins
        self.element = Element("svg", {"class": "chart", "role": "group"})
        self.element.attrib["aria-label"] = description
        self.element.attrib["height"] = f"{height:g}"
        around = "px ".join(map(str, margins))
        self.element.attrib["style"] = f"padding: {around}px; width: calc(100% - {left + right}px)"

    def __str__(self) -> str:
        return tostring(self.element, encoding="unicode")

    def left(self, value: float) -> str:
        """A value of the horizontal axis as a percentage of the width."""
        return f"{100 * self.x.place(value):.5g}%"

    def top(self, value: float) -> float:
        """A value of the vertical axis in pixels."""
        return (1 - self.y.place(value)) * self.height if self.y else value

    def draw_x(self, ticks: Mapping[float, str], title: str) -> None:
        """Draw ticks with their labels below the axes, and the title of the axis below them."""
        for value, text in ticks.items():
            self.draw_vertical(value, "grid")
            self.write(text, self.left(value), self.height + 20)
        self.write(title, "50%", self.height + 38)

    def draw_y(self, title: str) -> None:
        """Draw ticks with their labels to the left of the axes, and the title above them."""
        assert self.y is not None
        for value in self.y.ticks(6):
            self.draw_level(value, self.x.low, self.x.high, "grid")
            self.write(f"{value:g}", "-8", self.top(value) + 4, "end")
        self.write(title, "-44", -14, "start")

    def write(self, text: str, x: str, y: float, anchor: str = "middle", **more: str) -> None:
        """Write text whose "start", "middle" or "end" is at a place."""
        more |= {"x": x, "text_anchor": anchor, "aria_hidden": "true"}
        _add(self.element, "text", y=y, **more).text = text

    def draw_vertical(self, value: float, kind: str) -> None:
        """Draw a vertical line through the chart."""
        x = self.left(value)
        _add(self.element, "line", class_=kind, x1=x, x2=x, y1="0", y2="100%")

    def draw_level(self, value: float, start: float, end: float, kind: str = "dashed") -> None:
        """Draw a horizontal line at a value."""
        ends = {"x1": self.left(start), "x2": self.left(end)}
        _add(self.element, "line", class_=kind, **ends, y1=self.top(value), y2=self.top(value))

    def mark(self, values: str) -> Element:
        """Add an element whose tooltip shows ``values``."""
        mark = _add(self.element, "g", class_="mark", role="img")
        _add(mark, "title").text = values
        return mark

    def row(self, top: float, height: float, values: str) -> Element:
        """Add a mark that is as wide as the chart."""
        mark = self.mark(values)
        _add(mark, "rect", y=top, width="100%", height=height, fill="transparent")
        return mark

    def column(self, low: float, high: float, middle: float, values: str) -> None:
        """Add a mark that is as high as the chart, with a line that is shown with the tooltip."""
        mark = self.mark(values)
        start, end = (100 * min(max(self.x.place(edge), 0), 1) for edge in (low, high))
        place = {"x": f"{start:.5g}%", "width": f"{end - start:.5g}%"}
        _add(mark, "rect", **place, y=0, height="100%", fill="transparent")
        x = self.left(middle)
        _add(mark, "line", class_="guide", x1=x, x2=x, y1="0", y2="100%")

    def dot(self, parent: Element, point: Point, radius: float, style: int | None) -> None:
        """Draw a dot in the style of a group."""
        x, y = self.left(point[0]), self.top(point[1])
        paint = {"fill": fill_colour(style), "stroke": colour(style)}
        _add(parent, "circle", class_="dot", cx=x, cy=y, r=radius, **paint)

    def interval(self, parent: Element, start: Point, end: Point, style: int | None) -> None:
        """Draw the line of an interval in the colour of a group."""
        xs = {"x1": self.left(start[0]), "x2": self.left(end[0]), "stroke": colour(style)}
        _add(parent, "line", class_="interval", y1=self.top(start[1]), y2=self.top(end[1]), **xs)

    def curve(self, points: Sequence[Point], style: int) -> None:
        """Draw a line through points in the style of a group."""
        kind = "dashed curve" if is_hollow(style) else "curve"
        self._path(points, class_=kind, stroke=colour(style))

    def band(self, points: Sequence[Point], style: int) -> None:
        """Fill the area inside points in the colour of a group."""
        self._path(points, class_="band", fill=colour(style))

    def _path(self, points: Sequence[Point], **paint: str) -> None:
        # A path has no percentages; its view box is stretched to the width of the chart.
        box = {"viewBox": f"0 0 {_STRETCHED} {self.height:g}", "preserveAspectRatio": "none"}
        stretched = _add(self.element, "svg", **box, width="100%", height="100%")
        places = [f"{_STRETCHED * self.x.place(x):.1f} {self.top(y):.1f}" for x, y in points]
        _add(stretched, "path", d="M" + "L".join(places), **paint)


def _add(parent: Element, name: str, **attributes: str | float) -> Element:
    """Add an element; in the names of attributes, "_" stands for "-"."""
    return SubElement(
        parent,
        name,
        {
            key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.5g}"
            for key, value in attributes.items()
        },
    )


def shorten(label: str) -> str:
    """A label, cut to the length that fits a chart on a phone."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"


def listed(texts: Sequence[str]) -> str:
    """The texts of the first groups, for a description, and how many more groups there are."""
    more = [f"and {len(texts) - _MAX_DESCRIBED} more"] if len(texts) > _MAX_DESCRIBED else []
    return "; ".join([*texts[:_MAX_DESCRIBED], *more])


def side_by_side(charts: Iterable[Chart]) -> str:
    """Charts beside each other where there is room, otherwise below each other."""
    return f'<div class="charts">{"".join(map(str, charts))}</div>'
