"""The report's charts, as SVG elements that use the colours of the page."""
