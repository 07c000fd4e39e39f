"""Which edit a sentence asks for: "cat to dog", "add glasses", "turn the horse into a zebra", or an edit's name."""

import re
from collections.abc import Mapping

from p2pz_ray.language.sentences import article

Words = tuple[str, str]

LONGEST = 80
"""The most letters of one word."""
_STOP_WORDS = set(
    ["a", "an", "the", "with", "of", "in", "on", "it", "its", "this", "that", "to", "into", "and", "please"]
)
_REMOVING = {"remove", "without", "off", "away", "delete", "no"}
_PATTERNS = (
    re.compile(r"(?:turn|change|make|transform|convert|translate|edit)\s+(.+?)\s+(?:in)?to\s+(.+)"),
    re.compile(r"(?:replace|swap|exchange)\s+(.+?)\s+(?:with|for|by)\s+(.+)"),
    re.compile(r"(.+?)\s*(?:-+>|=+>|→|⇒|➜)\s*(.+)"),
    re.compile(r"(.+?)\s+(?:in)?to\s+(.+)"),
    re.compile(r"(.+?)\s+becomes?\s+(.+)"),
)


def read(prompt: str, offered: Mapping[str, Words | None], words_allowed: bool) -> str | Words | None:
    """An offered edit's name, or two words where those are allowed; None where the sentence names no edit.

    offered: name → the edit's two words, or None where it has none.
    """
    text = " ".join(prompt.split()).strip(" .!?\"'")
    plain = text.lower()
    for name in offered:
        if plain == name.lower():
            return name
    two = _two_words(plain)
    if two is not None:
        for name, words in offered.items():
            if words is not None and two == (_without_article(words[0]), _without_article(words[1])):
                return name
        if words_allowed and max(map(len, two)) <= LONGEST:
            return two
    return _by_change(plain, offered)


def title(name: str, words: Words | None) -> str:
    """An edit's title for people: "cat → dog", "cat: add glasses"; its name where it has no words."""
    if words is None:
        return name
    source, target = words
    if target.startswith(f"{source} with "):
        return f"{source}: add {target.removeprefix(f'{source} with ')}"
    suffix = f" of {source.partition(' of ')[2]}"
    if " of " in source and target.endswith(suffix):
        source, target = source.removesuffix(suffix), target.removesuffix(suffix)
    return f"{source} → {target}"


def caption_for(source: str) -> str:
    """The caption of a picture that has none, the same as in a run."""
    return f"a photo of {article(source)} {source}"


def _two_words(text: str) -> Words | None:
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            source, target = _without_article(match[1]), _without_article(match[2])
            if source and target and source != target:
                return source, target
    return None


def _without_article(words: str) -> str:
    """The words without a leading article."""
    return re.sub(r"^(?:an?|the|this|that|my|some)\s+", "", " ".join(words.lower().split())).strip(" .!?\"'")


def _by_change(text: str, offered: Mapping[str, Words | None]) -> str | None:
    """The offered edit whose change the sentence names: the words that its target adds or, where the sentence takes
    something away, drops. Of several, the one whose source is named too, else the first."""
    mentioned = set(re.findall(r"[\w'-]+", text))
    best, most = None, 0.0
    for name, words in offered.items():
        if words is None:
            continue
        before, after = (set(re.findall(r"[\w'-]+", side.lower())) - _STOP_WORDS for side in words)
        gained, lost = after - before, before - after
        takes_away = bool(mentioned & _REMOVING)
        change = lost if takes_away and not gained else gained
        if not change or not change <= mentioned or (takes_away and gained):
            continue
        score = 1 + len(before & mentioned) / (1 + len(before))
        if score > most:
            best, most = name, score
    return best
