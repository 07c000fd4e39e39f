"""Edits that the world knows the right answer to: SOURCE2TARGET, such as cat2dog, cat2glasses or sketch2oil."""

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
"""What an edit's name is made of, and the attribute that each word stands for."""


@dataclass(frozen=True)
class WorldEdit:
    """before: attributes that every source scene has; after: what the edit makes of them."""

    name: str
    before: Mapping[str, object]
    after: Mapping[str, object]

    @classmethod
    def parse(cls, name: str) -> "WorldEdit":
        """Read "cat2dog", "sketch2oil" (two words for one attribute) or "cat2glasses" (a kind of animal, and what is
        to be changed of it). Raises ConfigError for what the world can't draw.
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
            f"The edit {name!r} is not one of the world's: write SOURCE2TARGET with two of {', '.join(WORDS)}; "
            "both of one sort, or an animal and then what is changed of it."
        )

    def fits(self, scene: Scene) -> bool:
        return all(getattr(scene, name) == value for name, value in self.before.items())

    def truth(self, scene: Scene) -> Scene:
        """The counterfactual."""
        return scene.with_(**self.after)

    @property
    def words(self) -> tuple[str, str]:
        """What to make sentence banks for, of the source and of the target."""
        animal = str(self.before.get("kind", "cat"))
        if "kind" in self.after:
            return animal, str(self.after["kind"])
        if "style" in self.after:
            return f"{self.before['style']} of a {animal}", f"{self.after['style']} of a {animal}"
        if "season" in self.after:
            return f"{animal} in {self.before['season']}", f"{animal} in {self.after['season']}"
        return animal, f"{animal} with {'glasses' if 'glasses' in self.after else 'a hat'}"

    def shown(self, seen: Mapping[str, object]) -> bool:
        """Whether attributes that a judge saw are those that the edit makes."""
        return all(seen[name] == value for name, value in self.after.items())


def all_edits() -> list[WorldEdit]:
    """Every edit that the world has a truth for."""
    found = []
    for source, target in permutations(WORDS, 2):
        try:
            found.append(WorldEdit.parse(f"{source}2{target}"))
        except ConfigError:
            continue
    return found
