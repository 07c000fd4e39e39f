"""Sentence banks: the embedded one and text files."""

from itertools import pairwise
from pathlib import Path

import fsspec
import pytest

from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import Template, TextFile, article, mentions, sentences, template_bank

# The template bank


@pytest.mark.parametrize("word", ["cat", "elephant", "car", "woman with glasses", "oil pastel", "tree", "picture"])
def test_every_template_sentence_has_the_word_and_none_stands_twice(word: str) -> None:
    bank = template_bank(word, 5000)
    assert len(bank) == len(set(bank)) == 5000
    assert all(mentions(sentence, word) for sentence in bank)
    assert not any(mark in sentence for sentence in bank for mark in "{}<>")


@pytest.mark.parametrize("other", ["dog", "elephant", "woman with glasses"])
def test_two_words_make_the_same_sentences_but_for_the_word(other: str) -> None:
    def frame(sentence: str, word: str) -> str:
        return sentence.replace(f"an {word}", "a WORD").replace(f"a {word}", "a WORD").replace(word, "WORD")

    pairs = zip(template_bank("cat", 2000), template_bank(other, 2000), strict=True)
    assert all(frame(ours, "cat") == frame(theirs, other) for ours, theirs in pairs)


def test_the_word_stands_at_varied_places() -> None:
    bank = template_bank("cat", 1000)
    places = [sentence.split().index("cat") for sentence in bank]
    assert set(range(12)) <= set(places)
    assert max(places.count(place) for place in set(places)) < 0.25 * len(places)


def test_template_sentences_are_plain_lower_case_and_short() -> None:
    bank = template_bank("cat", 5000)
    words = {word for sentence in bank for word in sentence.split()}
    assert all(word.isalpha() and word == word.lower() for word in words)
    assert 200 < len(words) < 400
    assert max(len(sentence.split()) for sentence in bank) <= 16


def test_a_longer_bank_begins_with_the_shorter_one() -> None:
    assert template_bank("cat", 3000)[:100] == template_bank("cat", 100)


@pytest.mark.parametrize("word", ["cat", "apple", "unicorn", "umbrella", "hour glass"])
def test_articles_agree_with_what_follows(word: str) -> None:
    text = " ".join(template_bank(word, 2000)).split()
    for first, second in pairwise(text):
        if first in ("a", "an"):
            assert first == article(second), f"{first} {second}"
    expected = {"cat": "a", "apple": "an", "unicorn": "a", "umbrella": "an", "hour glass": "an"}[word]
    assert article(word) == expected


def test_an_article_goes_by_the_sound() -> None:
    consonant = "ewe ukulele uranium unicorn unidirectional unilateral universe European USB one-eyed UFO T-shirt NASA"
    vowel = "unidentified X-ray SUV LEDs umbrella hourglass urn uninhabited 8-year-old oncoming L-shaped HTML"
    for word in consonant.split():
        assert article(word) == "a", word
    for word in vowel.split():
        assert article(word) == "an", word


def test_a_bank_needs_a_word_and_a_possible_count() -> None:
    for word, count in [("  ", 10), ("cat", 0), ("cat", 10**6)]:
        with pytest.raises(ConfigError):
            sentences(Template(), word, count)
    assert sentences(Template(), " oil   pastel ", 3) == template_bank("oil pastel", 3)


def test_a_mention_is_a_word_of_its_own() -> None:
    assert mentions("A Cat, asleep", "cat")
    assert mentions("two cats play", "cat")
    assert mentions("the oil  pastel", "oil pastel")
    assert not mentions("a category of caterpillars", "cat")
    assert not mentions("oil and pastel", "oil pastel")


# Text files


def test_a_text_file_gives_its_lines_from_any_uri(tmp_path: Path) -> None:
    text = "\ufeffA cat sleeps.\r\n\r\n  Two   cats play \n"
    (tmp_path / "cat.txt").write_bytes(text.encode())
    with fsspec.open("memory://banks/cat.txt", "wb") as file:
        file.write(text.encode())
    for uri in [str(tmp_path / "cat.txt"), "memory://banks/cat.txt"]:
        assert sentences(TextFile(uri), "cat") == ["A cat sleeps.", "Two cats play"]
        assert sentences(TextFile(uri), "cat", 1) == ["A cat sleeps."]


@pytest.mark.parametrize(
    ("word", "lines", "lacking"),
    [
        ("cat", ["A cat sleeps", "It dreams of mice", "He's black and white"], [2, 3]),
        ("mouse", ["A mouse in the hay", "Mice run about"], [2]),
        ("Katze", ["Eine Katze schläft", "Zwei KATZEN spielen", "Kätzchen trinken Milch"], [3]),
        ("猫", ["一只猫在睡觉", "两只小猫在玩", "它很可爱"], [3]),
        ("kissa", ["kissan häntä", "kissat", "koira"], [3]),
        ("gatto", ["i gatti", "le gatte", "felini", "micio", "un gatto"], [1, 2, 3, 4]),
    ],
)
def test_lines_are_used_as_they_were_chosen_and_those_without_the_word_are_shown_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, word: str, lines: list[str], lacking: list[int]
) -> None:
    path = tmp_path / "bank.txt"
    path.write_text("\n".join(lines))
    assert sentences(TextFile(str(path)), word) == lines
    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith(f"{len(lacking)} of {len(lines)} sentences in {path} lack the word {word!r}")
    assert [number for number in range(1, 4) if f"line {number}: " in message] == lacking[:3]


def test_a_file_whose_every_line_has_the_word_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cat.txt").write_text("A cat sleeps\nCats play\na category\nno word, but never reached")
    assert len(sentences(TextFile(str(tmp_path / "cat.txt")), "cat", 3)) == 3
    assert caplog.records == []


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"\n \n", ["no sentences"]),
        (b"a cat \xff", ["not UTF-8", "byte 6"]),
        (None, ["no sentence file"]),
    ],
)
def test_a_wrong_text_file_is_named_in_one_sentence(tmp_path: Path, content: bytes | None, parts: list[str]) -> None:
    path = tmp_path / "cat.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        sentences(TextFile(str(path)), "cat")
    assert all(part in str(caught.value) for part in [str(path), *parts])
    assert "\n" not in str(caught.value)


def test_a_text_file_behind_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere://bank"):
        sentences(TextFile("nowhere://bank.txt"), "cat")
