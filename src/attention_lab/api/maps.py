"""The attention maps of a text in Python."""

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import encode_map, viewer_page

if TYPE_CHECKING:
    from attention_lab.training.input_maps import InputMaps

#: The height of the page in a notebook, in pixels.
HEIGHT = 720


class Maps(Mapping[str, AttentionMap]):
    """The attention map of each layer, by the layer's name.

    A map has ``weights`` of shape (H, L, S), and the names of its ``rows`` (the queries) and
    ``columns`` (the keys). In a notebook, the maps are shown as the page of ``attention-lab view``.

    Args:
        maps: the maps of a text.
        label: the run, for the page.
    """

    def __init__(self, maps: "InputMaps", label: str) -> None:
        self._by_layer = {each.layer: each for each in maps.maps}
        self._label = label
        #: The predicted or given target, or the predicted class; "" for a language model.
        self.output = maps.output

    def __getitem__(self, layer: str) -> AttentionMap:
        return self._by_layer[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_layer)

    def __len__(self) -> int:
        return len(self._by_layer)

    def __repr__(self) -> str:
        lines = (f"  {name}: {tuple(each.weights.shape)}" for name, each in self.items())
        return "\n".join([f"attention maps of {self._label}, (heads, rows, columns):", *lines])

    def _repr_html_(self) -> str:
        """The page, in a frame, since its styles must not reach the notebook."""
        text = next(iter(self.values())).example
        encoded = [encode_map(each) | {"run": self._label} for each in self.values()]
        page = viewer_page(encoded, text + (f" → {self.output}" if self.output else ""))
        frame = f'width="100%" height="{HEIGHT}" style="border: 0"'
        return f'<iframe srcdoc="{html.escape(page)}" {frame}></iframe>'
