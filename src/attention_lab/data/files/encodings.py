"""Files that are not UTF-8 text, recognized by their first bytes."""

#: Formats by their first bytes: their description, and how to make text of them.
_FORMATS = {
    b"\x1f\x8b": ("is compressed", "decompress it with gunzip"),
    b"BZh": ("is compressed", "decompress it with bunzip2"),
    b"\xfd7zXZ": ("is compressed", "decompress it with unxz"),
    b"\x28\xb5\x2f\xfd": ("is compressed", "decompress it with unzstd"),
    b"PK\3\4": ("is a zip archive or a spreadsheet", "save it as text"),
    b"\xff\xfe": ("is UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("is UTF-16", "save it as UTF-8"),
}
#: The ending of a file's name with which a compressed format is read.
_ENDINGS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def not_text(start: bytes, is_file: bool = True) -> str | None:
    """The description of a format that is no text, and what to do; None if it may be text.

    Args:
        start: the first 8 bytes, or more.
        is_file: whether it is the content of a file with a name.

    >>> not_text(bytes([0x1f, 0x8b, 8]))
    'is compressed; let its name end in .gz, or decompress it with gunzip'
    >>> not_text(bytes([0x1f, 0x8b, 8]), is_file=False)
    'is compressed; decompress it with gunzip'
    """
    for first, (kind, advice) in _FORMATS.items():
        if start.startswith(first):
            ending = _ENDINGS.get(first) if is_file else None
            return f"{kind}; " + (f"let its name end in {ending}, or " if ending else "") + advice
    return None
