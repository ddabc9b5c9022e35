"""pandas, which is optional."""

from typing import Any


def pandas_module() -> Any:
    """The module ``pandas``.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("needs pandas: pip install 'attention-lab[pandas]'") from error
    return pandas
