"""Files that are not UTF-8 text, recognized by their first bytes."""

#: The first bytes of other formats, and what to do with such a file.
_FORMATS = {
    b"\x1f\x8b": "is compressed; let its name end in .gz, or decompress it with gunzip",
    b"BZh": "is compressed; decompress it with bunzip2",
    b"\xfd7zXZ": "is compressed; decompress it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed; let its name end in .zst, or decompress it with unzstd",
    b"PK\3\4": "is a zip archive or a spreadsheet; save it as text",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}


def not_text(start: bytes) -> str | None:
    """What a file is that starts with some bytes, and what to do; None if it may be text.

    >>> not_text(bytes([0x1f, 0x8b, 8]))
    'is compressed; let its name end in .gz, or decompress it with gunzip'
    """
    return next((said for first, said in _FORMATS.items() if start.startswith(first)), None)
