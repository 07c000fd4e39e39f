"""Sentence banks: many sentences that all contain one word, from which an edit direction's mean is taken."""

import logging
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import fsspec

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.language.bank import FRAMES, SLOTS

MAX_TEMPLATES = 20_000
MAX_WORDS = 16

LOG = logging.getLogger("p2pz_ray")
_SHOWN = 3  # lines without the word, in a warning

_SLOT = re.compile(r"\{(\w+?)\d?\}")
_ARTICLE = re.compile(r"<a> (?=(\S+))")
_CONSONANT_SOUND = re.compile(
    r"(uni(?=[cfopqstv]|di|l(?!l))|uk[eru]|ur(?=an[iou]|[ei])|us[aeu]|uti|ut[eo]|eu|ewe|once\b|one\b|one-|ufo)",
    re.IGNORECASE,
)
_VOWEL_SOUND = re.compile(r"([aeiou]|hour|honest|honou?r|heir|8|1[18](?!\d))", re.IGNORECASE)
# Abbreviations that are spelled out: one to three letters, or more without a vowel.
_SPELLED = re.compile(r"([A-Z])([A-Z]{0,2}|[B-DF-HJ-NP-TV-XZ]+)s?(?![A-Za-z])")
_BULLET = re.compile(r"^(?:[-*•–]|\(?\d{1,4}[.):])\s*")
_LONGEST = 40  # words; a text encoder with 77 tokens cuts off all after about 60 anyway


class SentenceSource(Protocol):
    """Where sentences come from: Template, TextFile, endpoint.Endpoint or text_model.TextModel."""

    def sentences(self, word: str, count: int) -> list[str]:
        """At most `count` sentences that contain `word`."""


def sentences(source: SentenceSource, word: str, count: int = 1000) -> list[str]:
    """Sentences about `word` from `source`: exactly `count`, or for a shorter text file as many as it has.

    Raises ConfigError for an empty word, a count below one, or a wrongly configured source; P2PZError for a source
    that fails while writing.
    """
    word = " ".join(word.split())
    if not word:
        raise ConfigError("The word to make sentences for is empty: name a noun such as 'cat'.")
    if count < 1:
        raise ConfigError(f"count is {count}: ask for at least one sentence about {word!r}.")
    return source.sentences(word, count)


@dataclass(frozen=True)
class Template:
    """The bank embedded in the package."""

    def sentences(self, word: str, count: int) -> list[str]:
        return template_bank(word, count)


@dataclass(frozen=True)
class TextFile:
    """A UTF-8 text file at any fsspec URI, one sentence per line; empty lines are skipped."""

    uri: str
    storage_options: dict = field(default_factory=dict)

    def sentences(self, word: str, count: int) -> list[str]:
        """The first `count` sentences, unchanged. Lines without `word` are kept, since they may have a pronoun or
        another form of it, and reported in one warning. ConfigError for a file that can't be read."""
        found: list[str] = []
        lacking: list[str] = []
        for number, line in enumerate(self._text().splitlines(), start=1):
            sentence = " ".join(line.split())
            if sentence and len(found) < count:
                found.append(sentence)
                if word.casefold() not in sentence.casefold():
                    lacking.append(f"line {number}: {sentence[:60]!r}")
        if not found:
            raise ConfigError(f"{self.uri} has no sentences: write one sentence about {word!r} on each line.")
        if lacking:
            shown = "; ".join(lacking[:_SHOWN]) + (" …" if len(lacking) > _SHOWN else "")
            LOG.warning(
                "%s of %s sentences in %s lack the word %r and are used as they stand (%s).",
                *(f"{len(lacking):,}", f"{len(found):,}", self.uri, word, shown),
            )
        return found

    def _text(self) -> str:
        try:
            with fsspec.open(self.uri, "rb", **self.storage_options) as file:
                return file.read().decode("utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(f"There is no sentence file at {self.uri}: check the path.") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.uri} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
        except Exception as error:  # every remote file system has its own family of errors
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"Can't read the sentences at {self.uri} ({reason}): check the URI.") from error


def template_bank(word: str, count: int = 1000) -> list[str]:
    """`count` different sentences that contain `word`, from the frames and slots embedded in the package.

    Deterministic, and word-for-word parallel: sentence i is the same for every word except for the word itself
    (and "a" or "an" before it), so the difference of two banks' means comes from the two words alone. A longer
    bank begins with the shorter one. `word` is a singular noun or a phrase ("woman with glasses"); in the
    sentences it comes after none to about fourteen other words.

    Raises ConfigError for a count outside 1 … 20,000.
    """
    if not 1 <= count <= MAX_TEMPLATES:
        raise ConfigError(
            f"count is {count}: the template bank makes 1 to {MAX_TEMPLATES} sentences, so set it between."
        )
    rng = random.Random(20230206)
    templates: dict[str, None] = {}  # an ordered set
    while len(templates) < count:
        # Every frame is as frequent as any other, in a new order each round.
        for frame in sorted(FRAMES, key=lambda _: rng.random()):
            template = _filled(frame, rng)
            if len(template.split()) <= MAX_WORDS:
                templates.setdefault(template)
    return [_with_word(template, word) for template in list(templates)[:count]]


def article(following: str) -> str:
    """The indefinite article, "a" or "an", for the sound that `following` begins with."""
    spelled = _SPELLED.match(following)
    if spelled:
        return "an" if spelled[1] in "AEFHILMNORSX" else "a"
    vowel = _VOWEL_SOUND.match(following) and not _CONSONANT_SOUND.match(following)
    return "an" if vowel else "a"


def mentions(sentence: str, word: str) -> bool:
    """Whether `sentence` has `word`, or its plural in -s or -es, as a whole word in upper or lower case."""
    parts = r"\s+".join(re.escape(part) for part in word.split())
    return re.search(rf"(?<!\w){parts}(?:e?s)?(?!\w)", sentence, re.IGNORECASE) is not None


def swapped(caption: str, source: str, target: str) -> str:
    """The caption with `source`, singular or plural, replaced by `target`, with the right article; "a photo of a
    TARGET" if the caption doesn't have it."""

    def other(found: re.Match[str]) -> str:
        before = f"{article(target)} " if found["article"] else ""
        plural = ("es" if re.search(r"(s|x|z|ch|sh)$", target) else "s") if found["plural"] else ""
        return (before.capitalize() if (found["article"] or "").istitle() else before) + target + plural

    if not mentions(caption, source):
        return f"a photo of {article(target)} {target}"
    parts = r"\s+".join(re.escape(part) for part in source.split())
    pattern = rf"(?<!\w)((?P<article>an?)\s+)?{parts}(?P<plural>e?s)?(?!\w)"
    return re.sub(pattern, other, caption, flags=re.IGNORECASE)


def collect(texts: Iterable[str], word: str, count: int, maker: str) -> list[str]:
    """The first `count` different sentences with `word` in `texts`, which a language model wrote one per line.

    List bullets, numbers and quotation marks are removed; lines that lack the word, or are too short or too
    long for a sentence, are left out. Raises P2PZError, naming the `maker`, if there are fewer than `count`.
    """
    kept: dict[str, str] = {}
    lines = 0
    for text in texts:
        for line in text.splitlines():
            sentence = _BULLET.sub("", " ".join(line.split())).strip("\"'“”` ")
            lines += bool(sentence)
            if 2 < len(sentence.split()) <= _LONGEST and mentions(sentence, word):
                kept.setdefault(sentence.lower(), sentence)
        if len(kept) >= count:
            return list(kept.values())[:count]
    raise P2PZError(
        f"{maker} wrote {lines} lines but only {len(kept)} of the {count} different sentences with the word "
        f"{word!r}: lower count, allow more requests, or choose another model."
    )


def _filled(frame: str, rng: random.Random) -> str:
    """`frame` with every slot but the word filled; two slots of one kind are never filled with the same text."""
    taken: set[str] = set()

    def choose(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "word":
            return match[0]
        choices = [choice for choice in SLOTS[slot] if choice not in taken]
        choice = choices[int(rng.random() * len(choices))]  # only random() itself is stable between Python versions
        taken.add(choice)
        return choice

    return _SLOT.sub(choose, frame)


def _with_word(template: str, word: str) -> str:
    return _ARTICLE.sub(lambda match: f"{article(match[1])} ", template.replace("{word}", word))
