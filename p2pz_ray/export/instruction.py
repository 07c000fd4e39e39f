"""What is said of a pair: an instruction, or what the edited picture shows, from templates."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import article

INSTRUCTION = "turn the {source} into {a_target}"
DESCRIPTION = "a photo of {a_target}"


class Instructions:
    """The sentences of a run's edits.

    templates: with {source}, {target}, {a_source} and {a_target} in them, the latter with their article; one that
    begins with "EDIT=" is for that edit alone. Of several one is chosen for each pair, by the seed.

    Raises ConfigError for a template that needs words which its edit hasn't, or names others.
    """

    def __init__(self, edits: Mapping[str, Mapping[str, Any]], templates: Sequence[str], seed: int = 0) -> None:
        self._seed = seed
        self._sentences = {name: self._filled(name, edits, templates) for name in edits}

    def of(self, id: str, edit: str) -> str:
        """What is said of the pair (id, edit)."""
        choices = self._sentences[edit]
        drawn = hashlib.sha256(f"{self._seed}\0{id}\0{edit}".encode("utf-8", "surrogatepass")).digest()
        return choices[int.from_bytes(drawn[:8], "big") % len(choices)]

    def _filled(self, name: str, edits: Mapping[str, Mapping[str, Any]], templates: Sequence[str]) -> list[str]:
        own = [text.partition("=")[2] for text in templates if text.partition("=")[0] == name]
        common = [text for text in templates if text.partition("=")[0] not in edits]
        words = {key: str(edits[name][key]) for key in ("source", "target") if edits[name].get(key)}
        words |= {f"a_{key}": f"{article(word)} {word}" for key, word in words.items()}
        sentences = []
        for template in own or common:
            try:
                sentences.append(template.format_map(words))
            except (KeyError, ValueError, IndexError, AttributeError) as error:
                missing = str(error).strip("'") in ("source", "target", "a_source", "a_target")
                raise ConfigError(
                    f"The edit {name} was not made of words: say with --prompt '{name}=…' what becomes of its pictures."
                    if missing
                    else f"The prompt {template!r} can't be filled in: write {{source}}, {{target}}, {{a_source}} or "
                    "{a_target} in braces, and nothing else."
                ) from None
        if not sentences:
            raise ConfigError(f"No --prompt is for the edit {name}: add one, or one for all edits.")
        return sentences
