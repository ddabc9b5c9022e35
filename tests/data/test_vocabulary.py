"""Tokens and their ids."""

import json
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_lab.data.core.vocabulary import (
    BOS,
    EOS,
    PAD,
    SPECIALS,
    UNK,
    BytePairs,
    Bytes,
    Characters,
    TextVocabulary,
    Vocabulary,
    Words,
    build_vocabulary,
    check_vocab_size,
    vocabulary_from_state,
)

LETTER = "to be or not to be\nthat is the question <s> "
PAIRS = BytePairs.trained([LETTER] * 3, 280)


def test_special_tokens_have_the_first_ids() -> None:
    vocabulary = Vocabulary("ab")
    assert [vocabulary.token(id) for id in (PAD, BOS, EOS, UNK)] == [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
    ]
    assert len(vocabulary) == 6


def test_ids_depend_on_the_set_of_tokens_only() -> None:
    tokens = ["AH", "T", "M", "T", "AH"]
    assert Vocabulary(tokens).tokens_to_ids(tokens) == Vocabulary(reversed(tokens)).tokens_to_ids(
        tokens
    )
    assert Vocabulary(tokens).tokens_to_ids(["AH", "M", "T"]) == [4, 5, 6]


def test_decode_is_the_inverse_of_encode() -> None:
    vocabulary = Vocabulary("tomato")
    assert vocabulary.ids_to_tokens(vocabulary.tokens_to_ids("motto")) == list("motto")


def test_unknown_tokens_become_unk() -> None:
    assert Vocabulary("ab").tokens_to_ids("axb") == [4, UNK, 5]


def test_decode_stops_at_eos_and_skips_pad_and_bos() -> None:
    assert Vocabulary("ab").ids_to_tokens([BOS, 4, PAD, UNK, 5, EOS, 4]) == ["a", "<unk>", "b"]


def test_tokens_named_like_special_tokens_have_their_ids() -> None:
    vocabulary = Vocabulary(["a", *SPECIALS])
    assert len(vocabulary) == 5
    assert vocabulary.tokens_to_ids(SPECIALS) == [PAD, BOS, EOS, UNK]


def test_no_token_has_an_id_beyond_the_last() -> None:
    with pytest.raises(IndexError):
        Vocabulary("ab").token(6)


def test_names_of_special_tokens_in_a_text_are_ordinary_text() -> None:
    assert Words(["a", *SPECIALS]).encode("<pad> a <s> </s>") == [UNK, 4, UNK, UNK]


# Bytes and byte pairs


@pytest.mark.parametrize("vocabulary", [Bytes(), PAIRS], ids=["bytes", "pairs"])
@given(text=st.text() | st.text(alphabet=LETTER + "é</pad>unk\x00\r\n"))
def test_decoding_inverts_encoding(vocabulary: TextVocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert all(vocabulary.lowest <= id < len(vocabulary) for id in ids)
    assert vocabulary.decode([BOS, *ids, EOS, ids[0] if ids else UNK, PAD]) == text


@pytest.mark.parametrize("vocabulary", [Bytes(), PAIRS], ids=["bytes", "pairs"])
def test_invalid_utf_8_decodes_to_the_replacement_character(
    vocabulary: TextVocabulary,
) -> None:
    half = vocabulary.encode("é")[:1]
    assert (
        vocabulary.decode([*vocabulary.encode("a"), UNK, *half, *vocabulary.encode("b")]) == "a��b"
    )


@given(text=st.text())
def test_bytes_are_those_of_utf_8(text: str) -> None:
    assert Bytes().encode(text) == [4 + byte for byte in text.encode("utf-8")]


def test_bytes_are_named_as_ascii_or_as_numbers() -> None:
    names = [Bytes().token(id) for id in (PAD, EOS, 4, 4 + ord("a"), 4 + ord(" "), 4 + 255)]
    assert names == ["<pad>", "</s>", "0x00", "a", " ", "0xff"]
    for beyond in (-1, 260):
        with pytest.raises(IndexError):
            Bytes().token(beyond)


def merged(words: dict[tuple[str, ...], int], merges: int) -> list[str]:
    """The tokens of Sennrich et al. 2016, algorithm 1."""
    tokens = []
    for _ in range(merges):
        counts: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                counts[pair] += count
        (a, b), _ = counts.most_common(1)[0]
        tokens.append(a + b)
        joined = {}
        for word, count in words.items():
            symbols: list[str] = []
            for symbol in word:
                if symbol == b and symbols and symbols[-1] == a:
                    symbols[-1] += b
                else:
                    symbols.append(symbol)
            joined[tuple(symbols)] = count
        words = joined
    return tokens


def test_byte_pairs_are_the_most_frequent_ones() -> None:
    """The words have no two pairs of equal frequency."""
    counts = {"aaab": 100, "ab": 37, "cb": 11, "cbd": 5}
    pairs = BytePairs.trained((" ".join([word] * n) for word, n in counts.items()), 264)
    spelled: Counter[tuple[str, ...]] = Counter()
    for word, n in counts.items():
        spelled |= Counter({tuple(word): 1, (" ", *word): n - 1})
    assert [pairs.token(id) for id in range(260, 264)] == merged(spelled, 4)
    assert len(pairs) == 264
    assert [pairs.token(id) for id in range(4)] == list(SPECIALS)
    with pytest.raises(IndexError):
        pairs.token(264)


def test_byte_pairs_have_a_token_for_every_byte() -> None:
    assert len({PAIRS.token(id) for id in range(len(PAIRS))}) >= 4 + 128
    assert len(json.loads(PAIRS.state_dict()["tokenizer"])["model"]["vocab"]) == 280 - 4
    assert len(BytePairs.trained([], 999)) == 260  # nothing to merge


def test_a_vocabulary_of_byte_pairs_has_at_least_every_byte() -> None:
    with pytest.raises(ValueError, match="vocab_size must be at least 260"):
        BytePairs.trained([LETTER], 259)


def test_byte_pairs_without_tokenizers_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'attention-lab\[bpe\]'"):
        BytePairs.trained([LETTER], 300)


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [("characters", Characters), ("whitespace", Words), ("bytes", Bytes), ("bpe", BytePairs)],
)
def test_a_vocabulary_is_restored_from_plain_values(tokens: str, kind: type) -> None:
    vocabulary = build_vocabulary(tokens, [LETTER[:9], LETTER[9:]], 270)  # type: ignore[arg-type]
    state = json.loads(json.dumps(vocabulary.state_dict()))
    again = vocabulary_from_state(state)
    assert type(vocabulary) is type(again) is kind
    assert again.state_dict() == vocabulary.state_dict() == state
    assert again.encode(LETTER) == vocabulary.encode(LETTER)
    unknown = tokens == "whitespace"  # the word "<s>" is no special one
    assert again.encode(LETTER).count(UNK) == unknown
    assert again.decode(again.encode("to be")) == "to be"


@given(st.text())
def test_encode_array_equals_encode(text: str) -> None:
    for vocabulary in (
        Characters(LETTER + "\U0001f414"),
        Words([text, "to"]),
        Bytes(),
        PAIRS,
    ):
        assert vocabulary.encode_array(text).tolist() == vocabulary.encode(text)
        assert vocabulary.encode_array(LETTER).tolist() == vocabulary.encode(LETTER)
    assert Characters("").encode_array(text).tolist() == [UNK] * len(text)


def test_vocab_size_is_for_byte_pairs_only(recwarn: pytest.WarningsRecorder) -> None:
    assert check_vocab_size(None, "characters") == 1024
    assert check_vocab_size(300, "characters", "bpe") == 300
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        check_vocab_size(0, "bpe")
    assert not recwarn
    with pytest.warns(UserWarning, match="vocab_size=9 has no effect: .* whitespace and bytes"):
        check_vocab_size(9, "whitespace", "bytes")


def test_unknown_kinds_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="characters, whitespace, bytes or bpe, got 'sounds'"):
        build_vocabulary("sounds", [], 0)  # type: ignore[arg-type]
