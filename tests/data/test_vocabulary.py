"""Tokens and their ids."""

import pytest

from attention_lab.data.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary, Words


def test_specials_come_first() -> None:
    vocabulary = Vocabulary("ab")
    assert [vocabulary.token(id) for id in (PAD, BOS, EOS, UNK)] == [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
    ]
    assert len(vocabulary) == 6


def test_numbering_depends_on_the_set_of_tokens_only() -> None:
    tokens = ["AH", "T", "M", "T", "AH"]
    assert Vocabulary(tokens).encode(tokens) == Vocabulary(reversed(tokens)).encode(tokens)
    assert Vocabulary(tokens).encode(["AH", "M", "T"]) == [4, 5, 6]


def test_decode_is_the_inverse_of_encode() -> None:
    vocabulary = Vocabulary("tomato")
    assert vocabulary.decode(vocabulary.encode("motto")) == list("motto")


def test_unknown_tokens_become_unk() -> None:
    assert Vocabulary("ab").encode("axb") == [4, UNK, 5]


def test_decode_stops_at_the_end_and_leaves_out_padding_and_beginning() -> None:
    assert Vocabulary("ab").decode([BOS, 4, PAD, UNK, 5, EOS, 4]) == ["a", "<unk>", "b"]


def test_tokens_named_like_specials_are_those_specials() -> None:
    vocabulary = Vocabulary(["a", *SPECIALS])
    assert len(vocabulary) == 5
    assert vocabulary.encode(SPECIALS) == [PAD, BOS, EOS, UNK]


def test_no_token_has_an_id_beyond_the_last() -> None:
    with pytest.raises(IndexError):
        Vocabulary("ab").token(6)


def test_text_cannot_name_special_tokens() -> None:
    assert Words(["a", *SPECIALS]).read("<pad> a <s> </s>") == [UNK, 4, UNK, UNK]
