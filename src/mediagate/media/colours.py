"""A colour, and the word a person has for it."""

import colorsys
from dataclasses import dataclass

_HUES = (
    (15, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (198, "cyan"),
    (255, "blue"),
    (288, "purple"),
    (335, "pink"),
    (360, "red"),
)
"""Upper end of each hue in degrees, and its name."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Red, green and blue, 0 to 255 each."""

    red: int
    green: int
    blue: int

    @property
    def hex(self) -> str:
        """As in CSS: `#rrggbb`."""
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"

    @property
    def brightness_percent(self) -> int:
        """Weighted as the eye does: 0 is black, 100 is white (luma of ITU-R BT.709)."""
        return round((0.2126 * self.red + 0.7152 * self.green + 0.0722 * self.blue) / 2.55)

    @property
    def name(self) -> str:
        """What a person would call it, as `dark green`."""
        hue, lightness, _ = colorsys.rgb_to_hls(self.red / 255, self.green / 255, self.blue / 255)
        chroma = max(self.red, self.green, self.blue) - min(self.red, self.green, self.blue)
        if lightness < 0.06:
            return "black"
        if lightness > 0.97:
            return "white"
        if chroma < 25:
            return "dark grey" if lightness < 0.35 else "light grey" if lightness > 0.7 else "grey"
        word = next(name for end, name in _HUES if hue * 360 <= end)
        if word == "orange" and lightness < 0.35:
            return "brown"
        return f"dark {word}" if lightness < 0.25 else f"light {word}" if lightness > 0.75 else word
