"""Mutations of text, values and files that a user could make by mistake."""

from random import Random

#: Values that are wrong for most keys, as typed on the command line.
VALUES = (
    *("", "null", "None", "true", "yes", "nan", "inf", "-inf", "-1", "0", "1", "0.5", "1.0", "1e9"),
    *("1e400", "1e-400", "1000000000", "-1000000000", "9" * 30, "9" * 400, "0x10", "1_000", "007"),
    *("x", "ü", "日本語", "😀", "a b", "a=b", "a:b", "#", "%", "$x", "\\", "'", '"', "''", "'1'"),
    *("[", "]", "[]", "[1,2]", "[[1]]", "[null]", "[a,b,c]", "{}", "{a:1}", "{a:{b:1}}", "{1:2}"),
    *(
        "1,",
        ",",
        ",1",
        "1,2",
        "a,b",
        "(",
        ")",
        "f(x)",
        "range(3)",
        "range(0,1000000000)",
        "glob(*)",
    ),
    *("choice(1,2)", "choice()", "int(x)", "sort(1)", "shuffle(1,2)", "interval(0,1)", "tag(a,1)"),
    *("${seed}", "${nope}", "${attention}", "${", "${}", "${oc.env:NOPE}", "${oc.env:HOME}", "$"),
    *(
        "???",
        "~",
        "~/x",
        "/proc/x",
        "/dev/null",
        "..",
        ".",
        "/",
        "*",
        "@",
        "_target_",
        "torch.load",
    ),
    *("\n", "\t", " ", "\x1b[2J", "\u202e", "\udcff", "x" * 300, "x" * 100_000, "1" * 5000),
)
#: Those that are neither a number nor true or false.
NO_NUMBERS = frozenset(
    {
        *("nan", "inf", "-inf", "1e400", "9" * 30, "9" * 400, "0x10", "x", "ü", "日本語", "😀"),
        *("a b", "a=b", "a:b", "#", "%", "$x", "[", "]", "[]", "[[1]]", "[null]", "[a,b,c]", "{}"),
        *("{a:1}", "{a:{b:1}}", "{1:2}", "1,", ",", ",1", "(", ")", "f(x)", "${nope}", "${", "${}"),
        *("${oc.env:NOPE}", "~", "~/x", "/proc/x", "/dev/null", "..", "/", "*", "_target_"),
        *("torch.load", "x" * 300, "x" * 100_000, "1" * 5000),
    }
)
#: YAML for a whole file that is not the mapping that is needed.
YAML = (
    *(
        "",
        "#",
        "3",
        "null",
        "text",
        "- 1",
        "[]",
        "{}",
        "a: [",
        "a: b: c",
        "a:\tb\n\tc: d",
        "\ta: 1",
    ),
    *(
        "a: 1\na: 2\n",
        "a: 1\n---\nb: 2\n",
        "1: 2\n",
        "null: 1\n",
        "[1]: 2\n",
        "{a: 1}: 2\n",
        "? a\n",
    ),
    *("a: &x [*x]\n", "&a a: *a\n", "a: *b\n", "a: !!python/object:os.system {}\n", "a: !x 1\n"),
    *(
        "a: !!binary x\n",
        "a: 2020-01-01\n",
        "a: !!set {x}\n",
        "%YAML 9.9\n---\na: 1\n",
        "\ufeffa: 1\n",
    ),
    *(
        "a: \x00\n",
        "a: \x07\n",
        "'",
        '"',
        "@x",
        "`x`",
        "a: ${a}\n",
        "a: ${b}\nb: ${a}\n",
        "a: ${\n",
    ),
    *("a: " + "[" * 1000, "{a: " * 1000, "defaults: 3\n", "defaults: [3]\n", "defaults: [[]]\n"),
    *(
        "defaults: {a: b}\n",
        "defaults: [{a: b, c: d}]\n",
        "defaults: [nope]\n",
        "defaults: [null]\n",
    ),
    *("defaults: [_self_, _self_]\n", "defaults: [{override a: b}]\n", "defaults: [{nope: x}]\n"),
    *(
        "_target_: 3\n",
        "_target_: [a]\n",
        "_target_: ''\n",
        "_target_: .\n",
        "_target_: os.system\n",
    ),
    *(
        "_target_: nope.Nope\n",
        "_target_: {}\n",
        "_target_:\n",
        "_partial_: x\n",
        "x: " + "y" * 10**5,
    ),
    *("# @package nope\na: 1\n", "# @package _global_\nseed: x\n", "# @package \na: 1\n"),
    *("hydra: 3\n", "hydra: {run: 3}\n", "a: 1e999\n", "a: .nan\n", "a: -.inf\n", "a: 0o7\n"),
)


def misspelt(random: Random, text: str) -> str:
    """The text with one character lost, doubled, replaced, inserted or swapped."""
    place = random.randrange(len(text) + 1)
    before, after = text[:place], text[place:]
    strange = random.choice(["x", "_", "-", ".", "..", "/", " ", "ü", "@", ":", "A", "0", "'", "~"])
    return random.choice(
        [
            before + after[1:],
            before + after[:1] + after,
            before + strange + after,
            before + strange + after[1:],
            before + after[:2][::-1] + after[2:],
            text.upper(),
            text + strange,
            strange + text,
        ]
    )


def damaged(random: Random, content: bytes) -> bytes:
    """The content of a file, cut off, with bytes changed, or with lines lost or doubled."""
    kind = random.randrange(8)
    place = random.randrange(len(content) + 1)
    if kind == 0:
        return content[:place]
    if kind == 1:
        strange = random.choice([b"\x00", b"\xff", b"\t", b"\r", b"{", b"'", b"\xef\xbb\xbf", b":"])
        return content[:place] + strange + content[place:]
    if kind == 2:
        return random.choice([b"", b"\n", b"\xff\xfe", b"\x00" * 100, b"\x80" * 10, b"PK\3\4"])
    if kind == 3:
        return content.decode("utf-8", "replace").encode("utf-16")
    lines = content.split(b"\n")
    number = random.randrange(len(lines))
    if kind == 4:
        del lines[number]
    elif kind == 5:
        lines.insert(number, lines[number])
    elif kind == 6:
        key, colon, _ = lines[number].partition(b":")
        value = random.choice(VALUES).encode("utf-8", "surrogateescape")
        lines[number] = key + (colon or b":") + b" " + value
    else:
        lines[number] = random.choice([b" ", b"  ", b"\t"]) + lines[number]
    return b"\n".join(lines)
