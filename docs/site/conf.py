"""Settings of the documentation site, which `scripts/docs` builds with Sphinx."""

import logging
import re
from typing import Any

from sphinx.application import Sphinx

project = "Attention Lab"
author = "Attention Lab contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["scripts"]
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]

# Code blocks without a language are commands and their output.
highlight_language = "text"
# The anchors of headings are GitHub's; <img> is an image, as on GitHub.
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# Widgets would load scripts from other servers; without them, a progress bar shows nothing.
nb_ipywidgets_js = {}
# A package of the theme prints log messages; those of a notebook that is executed say nothing new.
logging.getLogger("traitlets").setLevel(logging.WARNING)

# `code` in docstrings is code.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False


def without_type(_app: Sphinx, what: str, *rest: Any) -> None:
    """Keep Napoleon from reading "words: more words" as the type and the text of an attribute.

    Types are annotations here, so the words before a colon are prose.
    """
    *_, lines = rest
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # an empty comment: Napoleon reads only the first line so


def with_class_names(*event: Any) -> tuple[str | None, str | None]:
    """Write a class that is a default as its name; Sphinx cannot parse "<class 'a.B'>"."""
    *_, signature, returned = event
    return signature and re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature), returned


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("autodoc-process-docstring", without_type, priority=400)  # Napoleon's is 500
    app.connect("autodoc-process-signature", with_class_names)
