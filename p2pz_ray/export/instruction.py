"""A pair's prompt from a template: an instruction, or a description of the edited picture."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from p2pz_ray.errors import ConfigError
from p2pz_ray.language.sentences import article

INSTRUCTION = "turn the {source} into {a_target}"
DESCRIPTION = "a photo of {a_target}"


class Instructions:
    """The prompts of a run's edits.

    templates: texts with {source}, {target}, {a_source} and {a_target}, the last two with their article; a template
    that begins with "EDIT=" is only for that edit. The seed chooses one of several for each pair.

    Raises ConfigError for a template that needs words which its edit doesn't have, or names other fields.
    """

    def __init__(self, edits: Mapping[str, Mapping[str, Any]], templates: Sequence[str], seed: int = 0) -> None:
        self._seed = seed
        self._sentences = {name: self._fill(name, edits, templates) for name in edits}

    def of(self, id: str, edit: str) -> str:
        """The prompt of the pair (id, edit)."""
        choices = self._sentences[edit]
        digest = hashlib.sha256(f"{self._seed}\0{id}\0{edit}".encode("utf-8", "surrogatepass")).digest()
        return choices[int.from_bytes(digest[:8], "big") % len(choices)]

    def _fill(self, name: str, edits: Mapping[str, Mapping[str, Any]], templates: Sequence[str]) -> list[str]:
        special = [text.partition("=")[2] for text in templates if text.partition("=")[0] == name]
        common = [text for text in templates if text.partition("=")[0] not in edits]
        words = {key: str(edits[name][key]) for key in ("source", "target") if edits[name].get(key)}
        words |= {f"a_{key}": f"{article(word)} {word}" for key, word in words.items()}
        sentences = []
        for template in special or common:
            try:
                sentences.append(template.format_map(words))
            except (KeyError, ValueError, IndexError, AttributeError) as error:
                missing = str(error).strip("'") in ("source", "target", "a_source", "a_target")
                raise ConfigError(
                    f"The edit {name} has no words: give a prompt for it with --prompt '{name}=…'."
                    if missing
                    else f"The prompt {template!r} can't be filled in: write {{source}}, {{target}}, {{a_source}} or "
                    "{a_target} in braces, and nothing else."
                ) from None
        if not sentences:
            raise ConfigError(f"No --prompt is for the edit {name}: add one, or one for all edits.")
        return sentences
