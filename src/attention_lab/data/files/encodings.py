"""Files that are not UTF-8 text, recognized by their first bytes."""

#: The first bytes of other formats, and what to do with such content.
_FORMATS = {
    b"\x1f\x8b": "is compressed; decompress it with gunzip",
    b"BZh": "is compressed; decompress it with bunzip2",
    b"\xfd7zXZ": "is compressed; decompress it with unxz",
    b"\x28\xb5\x2f\xfd": "is compressed; decompress it with unzstd",
    b"PK\3\4": "is a zip archive or a spreadsheet; save it as text",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}
#: The ending of a file's name with which a format is read as it is.
_ENDINGS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def not_text(start: bytes, is_file: bool = True) -> str | None:
    """What content is that starts with some bytes, and what to do; None if it may be text.

    Args:
        start: the first 8 bytes, or more.
        is_file: whether it is the content of a file with a name.

    >>> not_text(bytes([0x1f, 0x8b, 8]))
    'is compressed; let its name end in .gz, or decompress it with gunzip'
    >>> not_text(bytes([0x1f, 0x8b, 8]), is_file=False)
    'is compressed; decompress it with gunzip'
    """
    for first, said in _FORMATS.items():
        if start.startswith(first):
            named = f"; let its name end in {_ENDINGS.get(first)}, or "
            return said.replace("; ", named) if is_file and first in _ENDINGS else said
    return None
