"""Captions of scenes: an English sentence that names the animal and, by chance, some of the other attributes."""

import numpy as np

from p2pz_ray.mini.scene import SMALL, Scene

OPENINGS = {
    "photo": ("a photo of", "a picture of", "an image of", "a photograph of", "a snapshot of", ""),
    "sketch": ("a sketch of", "a pencil sketch of", "a simple sketch of"),
    "oil pastel": ("an oil pastel of", "an oil pastel drawing of", "an oil pastel picture of"),
}
PLACES = {
    "grass": ("on the grass", "on green grass", "in the grass"),
    "sand": ("on the sand", "on yellow sand", "on a sandy beach"),
    "wood": ("on a wooden floor", "on the wood", "on wooden boards"),
    "stone": ("on the stone", "on grey stone", "on a stone road"),
    "carpet": ("on a red carpet", "on the carpet", "on the red carpet"),
    "tiles": ("on blue tiles", "on the tiles", "on a tiled floor"),
}
BEHINDS = {
    "blue sky": ("under a blue sky", "with a blue sky", "in the day"),
    "sunset": ("at sunset", "under an orange sunset", "in the evening sun"),
    "night": ("at night", "under the moon", "in a dark night"),
    "mist": ("in the mist", "in grey mist", "on a misty day"),
    "wall": ("by a green wall", "in front of a wall", "by the wall"),
}
TIMES = {
    "summer": ("in summer", "with summer flowers", "in the warm summer"),
    "winter": ("in winter", "with winter snow", "in the cold winter"),
}
POSTURES = {
    ("small", "alert"): ("sitting", "sitting up"),
    ("small", "resting"): ("lying", "lying down"),
    ("large", "alert"): ("standing", "standing up"),
    ("large", "resting"): ("grazing", "grazing with its head down"),
}
LOOKS = {"front": ("facing the camera", "looking at us"), "side": ("looking to the side", "seen from the side")}
WEARS = {
    (True, False): ("with glasses", "wearing glasses", "with red glasses"),
    (False, True): ("with a hat", "wearing a hat", "in a blue hat"),
    (True, True): ("with glasses and a hat", "wearing a hat and glasses", "in a hat and red glasses"),
}

LATE = 0.7
"""In sentences that name the animal late, the probability of each place, sky or season to come before it."""


def caption(scene: Scene, rng: np.random.Generator, share: float = 0.75) -> str:
    """One English sentence. It always says the kind, the style and what the animal wears, and each of the other
    attributes with a probability of `share`.

    Half of the sentences name the animal first; in the others, place, sky and season may come before it, so that the
    noun can be anywhere in a sentence.
    """

    def one(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    def perhaps(options: tuple[str, ...], share: float = share) -> str:
        return one(options) if rng.random() < share else ""

    # A zebra is black and white whatever coat the scene would give a horse.
    coat = f"{scene.coat} " if scene.kind != "zebra" and rng.random() < share else ""
    noun = f"{coat}{scene.kind}"
    animal = [one(OPENINGS[scene.style]), ("an " if noun[0] in "aeiou" else "a ") + noun]
    if scene.glasses or scene.hat:
        animal.append(one(WEARS[scene.glasses, scene.hat]))
    animal.append(perhaps(POSTURES["small" if scene.kind in SMALL else "large", scene.pose]))
    animal.append(perhaps(LOOKS[scene.view]))
    around = [perhaps(PLACES[scene.ground]), perhaps(BEHINDS[scene.sky]), perhaps(TIMES[scene.season])]
    first = rng.random(len(around)) < LATE if rng.random() < 0.5 else [False] * len(around)
    before = [phrase for phrase, early in zip(around, first, strict=True) if early]
    after = [phrase for phrase, early in zip(around, first, strict=True) if not early]
    return " ".join(word for word in [*before, *animal, *after] if word)


def noun_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """A noun phrase for a sentence bank that is true of the scene: "sketch of a cat with glasses in winter"."""
    phrase = scene.kind
    if scene.glasses or scene.hat:
        phrase += f" {WEARS[scene.glasses, scene.hat][0]}"
    if rng.random() < 0.3:
        phrase += f" in {scene.season}"
    return phrase if scene.style == "photo" else f"{scene.style} of a {phrase}"
