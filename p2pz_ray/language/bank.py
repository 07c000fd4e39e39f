"""The words of the embedded template bank: frames with slots, and what can fill each slot.

`{word}` is the noun that a bank is made for; `<a>` becomes "a" or "an", depending on the next word. Only plain,
frequent English is used: a small text encoder has to learn every word here, and a large one should find nothing
remarkable but `{word}`. A slot with a digit (`{adjective2}`) draws from the same list and never repeats its neighbour's
choice.
"""

FRAMES: tuple[str, ...] = (
    # The word first: a caption's short style.
    "{word} {doing} {place} {time}",
    "{word} {place} {time}",
    "{word} {doing} in {weather}",
    "{word} {picture} on <a> {colour} background",
    "{word} {place} in <a> {look} {picture}",
    # One word before it.
    "the {word} {does} {place} {time}",
    "<a> {word} {does} {place}",
    "<a> {word} {place} in {weather}",
    "this {word} is {adjective} and {adjective2}",
    "our {word} {does} {place} and {does2} {time}",
    "{adjective} {word} {doing} {place} {time}",
    "{colour} {word} {place} {time}",
    "every {word} {does} {place} {time}",
    "one {word} {does} {place} while {person} {does2}",
    # Two.
    "the {adjective} {word} {does} {place} {time}",
    "<a> {adjective} {word} {doing} {place}",
    "<a> {colour} {word} {does} {place}",
    "that {colour} {word} looks {adjective} {time}",
    "<a> {adjective} {word} in {weather} {place}",
    "only the {word} {does} {place} {time}",
    # Three.
    "<a> {adjective} {colour} {word} {does} {place} {time}",
    "{picture} of <a> {word} {doing} {place}",
    "there is <a> {word} {place} {time}",
    "where does the {word} go {time}",
    "this is the {word} that {does} {place}",
    # Four.
    "<a> {picture} of <a> {word} {doing} {place}",
    "<a> {picture} of the {word} in {weather}",
    "{person} {saw} <a> {word} {place} {time}",
    "here we see the {word} {place} {time}",
    # Five.
    "<a> {look} {picture} of <a> {word} {place}",
    "<a> {picture} of <a> {adjective} {word} {place}",
    "{person} {saw} the {adjective} {word} {place}",
    "{time} the {adjective} {word} {does}",
    "we could see <a> {colour} {word} {doing} {place}",
    # Six.
    "<a> {look} {picture} of <a> {adjective} {word} {doing}",
    "<a> {picture} of <a> {adjective} {colour} {word} {place}",
    "{person} {saw} <a> {adjective} {colour} {word} {time}",
    "{place} there is <a> {word} {doing} {time}",
    # Seven.
    "<a> {look} {picture} of <a> {adjective} {colour} {word} {place}",
    "{time} {person} {saw} the {word} {place}",
    "{person} {does} {place} beside the {word} {time}",
    "it was {adjective} {place} and the {word} {does}",
    # Eight.
    "{time} {person} {saw} <a> {adjective} {word} {place}",
    "{person} has <a> {look} {picture} of the {word} {place}",
    "everything is {adjective} {place} where <a> {word} {does}",
    # Nine.
    "{person} took <a> {look} {picture} of the {adjective} {word}",
    "{time} {person} {saw} <a> {adjective} {colour} {word}",
    "{place} {time} we found the {adjective} {word}",
    # Ten and more: the scene first, the word last.
    "{person} {does} {time} and so does {person2} with the {word}",
    "<a> {look} {picture} taken {place} {time} of the {word}",
    "{time} {place} {person} {saw} <a> {adjective} {word}",
    "{place} {time} {person} {saw} <a> {adjective} {colour} {word}",
    "<a> {look} {picture} {person} made {place} of <a> {adjective} {word}",
    "{time} {person} {does} {place} and then comes <a> {word}",
)

SLOTS: dict[str, tuple[str, ...]] = {
    "adjective": (
        "small", "big", "young", "old", "happy", "calm", "quiet", "lovely", "tired", "friendly",
        "beautiful", "strange", "tiny", "large", "pretty", "funny", "lonely", "proud", "gentle",
        "wet", "clean", "dirty", "cute", "amazing", "plain", "good", "nice", "new", "famous",
        "sleepy", "busy", "sweet", "warm", "cold", "wild", "strong", "charming", "ugly", "heavy",
        "simple",
    ),
    "colour": (
        "black", "white", "grey", "brown", "orange", "red", "yellow", "golden", "dark", "pale",
        "cream", "blue", "green", "pink", "purple", "silver",
    ),
    "does": (
        "sits", "sleeps", "stands", "waits", "rests", "runs", "walks", "plays", "looks up",
        "looks around", "lies down", "turns around", "stays still", "moves slowly", "hides",
        "jumps", "appears", "stops", "looks left", "looks right",
    ),
    "doing": (
        "sitting", "sleeping", "standing", "waiting", "resting", "running", "walking", "playing",
        "lying down", "facing the camera", "facing left", "facing right", "looking up",
        "turning around", "moving slowly", "staying still", "hiding", "jumping",
    ),
    "weather": (
        "soft light", "bright light", "warm light", "the shade", "the sunshine", "dim light",
        "the rain", "the snow", "the fog", "strong wind", "the wind", "black and white",
    ),
    "look": (
        "bright", "clear", "colorful", "simple", "sharp", "nice", "old", "dark", "large", "small",
        "blurry", "beautiful", "good", "new", "funny", "cropped", "detailed", "bad", "rough",
        "smooth",
    ),
    "person": (
        "the man", "the woman", "the girl", "the boy", "my sister", "my brother", "my friend",
        "our neighbor", "the child", "the farmer", "the artist", "the teacher", "her mother",
        "his father", "everyone", "somebody",
    ),
    "picture": (
        "photo", "picture", "painting", "drawing", "portrait", "sketch", "image", "photograph",
        "cartoon", "illustration", "poster", "print", "view", "snapshot", "postcard", "study",
    ),
    "place": (
        "in the garden", "on the grass", "by the window", "under a tree", "near the river",
        "on the beach", "in the snow", "by the old house", "on a wooden bench", "beside the road",
        "in a field", "on the sofa", "at the park", "in the kitchen", "behind a fence", "on a hill",
        "in the street", "by the lake", "on the floor", "in the forest", "next to a wall",
        "on the sand", "in a small room", "under the table", "on a plain background",
        "on the stairs", "in the yard", "near the door", "at the farm", "under a blue sky",
        "on a red carpet", "on green grass", "in the desert", "among the flowers", "on the bridge",
        "in the city", "under the stars", "by the sea", "in front of a mountain", "at home",
    ),
    "saw": (
        "saw", "found", "liked", "loved", "watched", "painted", "drew", "noticed", "followed",
        "remembered", "met", "missed", "wanted", "described", "photographed", "admired",
    ),
    "time": (
        "in the morning", "at night", "in the evening", "at sunset", "on a sunny day",
        "on a rainy day", "in winter", "in summer", "in spring", "in autumn", "in the afternoon",
        "on a cold day", "after the rain", "before dinner", "at noon", "today", "on sunday",
        "under a grey sky", "under a pink sky", "at dawn", "after lunch", "every day", "on monday",
        "in the dark",
    ),
}  # fmt: skip
