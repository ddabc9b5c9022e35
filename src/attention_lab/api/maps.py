"""The attention maps of a text in Python."""

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.tracking.attention_arrays import write_arrays
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

    def save(self, file: str | Path) -> None:
        """Save the maps as arrays, as ``attention-lab view --format npz`` does.

        The arrays are ``LAYER/weights``, ``LAYER/rows``, ``LAYER/columns`` and ``LAYER/hidden``.

        Args:
            file: the path, which ends in ``.npz``; an existing file is replaced.

        Raises:
            ValueError: if the path does not end in ``.npz``.
            OSError: if the file cannot be written.
        """
        if Path(file).suffix != ".npz":
            raise ValueError(f"file={str(file)!r}: must end in .npz")
        write_arrays(self.values(), Path(file))

    def _repr_html_(self) -> str:
        """The page, in a frame, since its styles must not reach the notebook."""
        text = next(iter(self.values())).example
        encoded = [encode_map(each) | {"run": self._label} for each in self.values()]
        page = viewer_page(encoded, text + (f" → {self.output}" if self.output else ""))
        frame = f'width="100%" height="{HEIGHT}" style="border: 0"'
        return f'<iframe srcdoc="{html.escape(page)}" {frame}></iframe>'
