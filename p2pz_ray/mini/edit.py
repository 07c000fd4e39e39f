"""Edits of the miniature world, named SOURCE2TARGET: cat2dog, cat2glasses, sketch2oil … Each has an exact answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

from p2pz_ray.errors import ConfigError
from p2pz_ray.mini.scene import CHOICES, KINDS, Scene

WORDS: Mapping[str, tuple[str, object]] = {
    **{kind: ("kind", kind) for kind in KINDS},
    "glasses": ("glasses", True),
    "hat": ("hat", True),
    "photo": ("style", "photo"),
    "sketch": ("style", "sketch"),
    "oil": ("style", "oil pastel"),
    "summer": ("season", "summer"),
    "winter": ("season", "winter"),
}
"""The words an edit's name may use, and the attribute and value that each stands for."""


@dataclass(frozen=True)
class WorldEdit:
    """before: attributes that every source scene has; after: the attributes that the edit sets."""

    name: str
    before: Mapping[str, object]
    after: Mapping[str, object]

    @classmethod
    def parse(cls, name: str) -> "WorldEdit":
        """Read a name: two values of one attribute ("cat2dog", "sketch2oil"), or an animal and a value of another
        attribute ("cat2glasses"). Raises ConfigError for any other name.
        """
        source, _, target = name.partition("2")
        if source in WORDS and target in WORDS and source != target:
            (attribute, value), (changed, wanted) = WORDS[source], WORDS[target]
            plain = CHOICES[changed][0]
            if changed == attribute:
                return cls(name, {attribute: value}, {changed: wanted})
            if attribute == "kind" and wanted != plain:
                return cls(name, {attribute: value, changed: plain}, {changed: wanted})
        raise ConfigError(
            f"The miniature world has no edit {name!r}: write SOURCE2TARGET with two of {', '.join(WORDS)}, both of "
            "the same kind (cat2dog, sketch2oil), or an animal and then a feature (cat2glasses)."
        )

    def fits(self, scene: Scene) -> bool:
        return all(getattr(scene, name) == value for name, value in self.before.items())

    def truth(self, scene: Scene) -> Scene:
        """The counterfactual."""
        return scene.with_(**self.after)

    @property
    def words(self) -> tuple[str, str]:
        """The nouns to make sentence banks for: the source's and the target's."""
        animal = str(self.before.get("kind", "cat"))
        if "kind" in self.after:
            return animal, str(self.after["kind"])
        if "style" in self.after:
            return f"{self.before['style']} of a {animal}", f"{self.after['style']} of a {animal}"
        if "season" in self.after:
            return f"{animal} in {self.before['season']}", f"{animal} in {self.after['season']}"
        return animal, f"{animal} with {'glasses' if 'glasses' in self.after else 'a hat'}"

    def shown(self, seen: Mapping[str, object]) -> bool:
        """Whether a judge's view of a picture has the attributes that the edit sets."""
        return all(seen[name] == value for name, value in self.after.items())


def all_edits() -> list[WorldEdit]:
    """Every edit that the world has a truth for."""
    edits = []
    for source, target in permutations(WORDS, 2):
        try:
            edits.append(WorldEdit.parse(f"{source}2{target}"))
        except ConfigError:
            continue
    return edits
