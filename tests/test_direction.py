"""Directions keep where they came from, load from the authors' files, and refuse another model."""

import pickle
from pathlib import Path

import pytest
import torch

from p2pz_ray import EditDirection, Editor
from p2pz_ray.editing.model import TextEncoder
from p2pz_ray.errors import ConfigError

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "directions_sd14"


@pytest.fixture(scope="module")
def text(tiny_model: Path) -> TextEncoder:
    return TextEncoder.load(tiny_model)


def test_a_direction_is_the_difference_of_mean_embeddings(text: TextEncoder) -> None:
    cats, dogs = ["a cat", "the cat sleeps"], ["a dog", "the dog sleeps", "one dog"]
    made = EditDirection.from_sentences(text, cats, dogs)
    torch.testing.assert_close(made.embedding, text.embed(dogs).tokens.mean(0) - text.embed(cats).tokens.mean(0))


def test_saving_and_loading_keeps_numbers_and_provenance(text: TextEncoder, tmp_path: Path) -> None:
    made = EditDirection.from_sentences(text, ["a cat"], ["a dog"], source="cat", target="dog")
    for uri in (str(tmp_path / "deep" / "cat2dog.safetensors"), "memory://directions/cat2dog.safetensors"):
        made.save(uri)
        again = EditDirection.load(uri)
        assert torch.equal(again.embedding, made.embedding)
        assert again.provenance == made.provenance
        assert again.provenance["source"] == "cat"
        assert again.provenance["text_encoder"] == text.fingerprint
        again.check(text, "cat2dog")


def test_another_models_direction_is_refused(text: TextEncoder, tiny_v_model: Path) -> None:
    made = EditDirection.from_sentences(text, ["a cat"], ["a dog"])
    with pytest.raises(ConfigError, match="cat2dog was made for another model"):
        made.check(TextEncoder.load(tiny_v_model), "cat2dog")
    editor = Editor.from_pretrained(tiny_v_model)
    inversion = editor.invert(torch.zeros(1, 64, 64, 3, dtype=torch.uint8).numpy(), ["a cat"], [0])
    with pytest.raises(ConfigError, match="another model"):
        editor.edit(inversion, [made])


def test_the_authors_embeddings_make_a_direction() -> None:
    if not PUBLISHED.exists():
        pytest.skip("the authors' published embeddings are not beside this checkout")
    made = EditDirection.from_embeddings(str(PUBLISHED / "horse.pt"), str(PUBLISHED / "zebra.pt"))
    assert made.embedding.shape == (77, 768)
    assert made.embedding.dtype == torch.float32
    back = EditDirection.from_embeddings(str(PUBLISHED / "zebra.pt"), str(PUBLISHED / "horse.pt"))
    assert torch.equal(back.embedding, -made.embedding)
    assert made.embedding.norm() > 1


class Trap:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('code from a data file ran')",))


def test_files_that_are_no_embedding_are_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save(torch.zeros(1, 4, 8), good)
    cases = {"trap.pt": pickle.dumps(Trap()), "text.pt": b"no tensor", "empty.pt": b""}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=name):
            EditDirection.from_embeddings(str(tmp_path / name), str(good))
    torch.save({"a": torch.zeros(2)}, tmp_path / "dict.pt")
    with pytest.raises(ConfigError, match=r"dict\.pt"):
        EditDirection.from_embeddings(str(good), str(tmp_path / "dict.pt"))


@pytest.mark.parametrize("content", [b"", b"garbage that is long enough to have a header", b"\xff" * 64])
def test_a_file_that_is_no_direction_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.safetensors"):
        EditDirection.load(str(file))
    with pytest.raises(ConfigError, match=r"absent\.safetensors"):
        EditDirection.load(str(tmp_path / "absent.safetensors"))
