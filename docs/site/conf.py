"""Settings of the documentation site, which `scripts/docs` builds with Sphinx."""

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

# Code blocks without a language are commands and their output.
highlight_language = "text"
# The anchors of headings are GitHub's; <img> is an image, as on GitHub.
myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# Widgets would load scripts from other servers.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

# `code` in docstrings is code.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
