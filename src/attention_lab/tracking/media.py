"""Images, tables and HTML pages in the loggers that take them."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.loggers import (
    CometLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image

from attention_lab.tracking.csv_file import cell, csv_table
from attention_lab.tracking.safe_logger import SafeLogger

#: The most characters of an example in a caption or a table.
MAX_CHARACTERS = 200

_STYLE = """<style>
:root { color-scheme: light dark; font: 14px sans-serif }
table { border-collapse: collapse }
th, td { border: 1px solid gray; padding: 2px 8px; text-align: start; white-space: pre-wrap }
</style>"""

#: How one kind of media is logged, by the class of the logger.
Methods = Mapping[type[Logger], Callable[..., None]]
#: The rows of a table; all values of a column have one type.
Rows = Sequence[Sequence[Any]]


class ImageFile(NamedTuple):
    """A PNG file with its caption."""

    path: Path
    caption: str


def takes_images(logger: Logger) -> bool:
    """Whether attention maps can be logged to a logger."""
    return isinstance(logger, tuple(_LOG_IMAGES))


def log_images(loggers: Iterable[Logger], images: Mapping[str, ImageFile], step: int) -> None:
    """Log images by key; loggers that take no images are skipped."""
    for logger in loggers:
        _log(logger, _LOG_IMAGES, images, step)


def log_page(loggers: Iterable[Logger], key: str, page: Path, step: int) -> None:
    """Log a self-contained HTML page; loggers that take no pages are skipped."""
    for logger in loggers:
        _log(logger, _LOG_PAGE, key, page, step)


def log_table(
    loggers: Iterable[Logger], key: str, columns: Sequence[str], rows: Rows, step: int
) -> None:
    """Log a table; loggers that take no tables are skipped."""
    for logger in loggers:
        _log(logger, _LOG_TABLE, key, columns, rows, step)


def clipped(text: str) -> str:
    """The beginning of a text, with "…" if it is cut."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def wandb_table(columns: Sequence[str], rows: Rows) -> Any:
    """A table as W&B's HTML.

    For a ``wandb.Table``, W&B would ask the server first, and wait while that is down.
    """
    import wandb  # only where it is used: it takes most of a second to import

    return wandb.Html(_html_table(columns, rows), inject=False, data_is_not_path=True)


def _html_table(columns: Sequence[str], rows: Rows) -> str:
    """A table as an HTML page."""

    def line(tag: str, cells: Iterable[object]) -> str:
        shown = (f'<{tag} dir="auto">{html.escape(str(each))}</{tag}>' for each in cells)
        return f"<tr>{''.join(shown)}</tr>\n"

    head, body = line("th", columns), "".join(line("td", row) for row in rows)
    return f"<!doctype html>\n<meta charset='utf-8'>\n{_STYLE}\n<table>\n{head}{body}</table>\n"


def _log(logger: Logger, methods: Methods, *media: object) -> None:
    if isinstance(logger, SafeLogger):
        logger.attempt(lambda inner: _log(inner, methods, *media))
    for kind, log in methods.items():
        if isinstance(logger, kind):
            log(logger, *media)


def _images_to_wandb(logger: Any, images: Mapping[str, ImageFile], step: int) -> None:
    import wandb  # only where it is used: it takes most of a second to import

    logged = {
        key: wandb.Image(str(path), caption=caption) for key, (path, caption) in images.items()
    }
    logger.log_metrics(logged, step)


def _images_to_tensorboard(logger: Any, images: Mapping[str, ImageFile], step: int) -> None:
    for key, (path, _) in images.items():
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def _images_to_mlflow(logger: Any, images: Mapping[str, ImageFile], step: int) -> None:
    for path, _ in images.values():  # its names of images allow few characters
        logger.experiment.log_artifact(logger.run_id, str(path), f"attention/step-{step:06d}")


def _images_to_comet(logger: Any, images: Mapping[str, ImageFile], step: int) -> None:
    for key, (path, _) in images.items():
        logger.experiment.log_image(str(path), name=key, step=step)


def _page_to_wandb(logger: Any, key: str, page: Path, step: int) -> None:
    import wandb

    # W&B would add its own styles, which do not fit the page's dark colours.
    logger.log_metrics({key: wandb.Html(page, inject=False)}, step)


def _page_to_mlflow(logger: Any, key: str, page: Path, step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(page), key.rpartition("/")[0])


def _table_to_wandb(logger: Any, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    logger.log_metrics({key: wandb_table(columns, rows)}, step)


def _table_to_mlflow(logger: Any, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    # log_table would keep a list of all tables in a tag, whose length MLflow limits.
    file = f"{key}/step-{step:06d}.csv"
    logger.experiment.log_text(logger.run_id, csv_table(columns, rows), file)


def _table_to_comet(logger: Any, key: str, columns: Sequence[str], rows: Rows, step: int) -> None:
    file, cells = f"{key}/step-{step:06d}.csv", [list(map(cell, row)) for row in rows]
    logger.experiment.log_table(file, cells, headers=list(columns))


_LOG_IMAGES: Methods = {
    WandbLogger: _images_to_wandb,
    TensorBoardLogger: _images_to_tensorboard,
    MLFlowLogger: _images_to_mlflow,
    CometLogger: _images_to_comet,
}
_LOG_TABLE: Methods = {
    WandbLogger: _table_to_wandb,
    MLFlowLogger: _table_to_mlflow,
    CometLogger: _table_to_comet,
}
_LOG_PAGE: Methods = {WandbLogger: _page_to_wandb, MLFlowLogger: _page_to_mlflow}
