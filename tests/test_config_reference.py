"""The reference of every key is that of the types."""

from pathlib import Path

from p2pz_ray.config.distill import DistillConfig
from p2pz_ray.config.reference import keys, renewed

README = Path(__file__).parents[1] / "configs" / "README.md"


def test_the_reference_is_todays() -> None:
    text = README.read_text(encoding="utf-8")
    assert renewed(text) == text, "run: python -m p2pz_ray.config.reference configs/README.md"


def test_a_section_that_is_given_a_default_shows_its_values() -> None:
    found = {key.name: key for key in keys(DistillConfig)}
    assert found["augmentation.pairs.flip"].default == 0.5
    assert found["augmentation.discriminator.flip"].default == 0.0
    assert found["workers.max_failures"].meaning == "how often the training recovers from a lost worker"
    assert found["pairs.runs"].type == "list of text"
