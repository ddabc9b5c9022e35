"""The report's charts: SVG elements in the pixels and the colours of their page."""
