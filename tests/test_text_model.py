"""Sentences from a causal language model on this machine."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.language.sentences import mentions, sentences
from p2pz_ray.language.text_model import TextModel


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random GPT-2 of eight words and a line break: about half of what it writes has a cat in it."""
    words = ["<unk>", "<end>", "\n", " cat", " the", " a", " sleeps", " plays", " here", " old", " dog"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| ?[^\s]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    folder = str(tmp_path_factory.mktemp("gpt2"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_positions=128, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_local_text_model_writes_until_there_are_enough_sentences_with_the_word(tiny_gpt2: str) -> None:
    found = sentences(TextModel(tiny_gpt2, batch_size=8), "cat", 40)
    assert len(found) == len(set(found)) == 40
    assert all(mentions(sentence, "cat") for sentence in found)


def test_a_local_text_model_writes_the_same_for_the_same_seed_and_leaves_the_global_generator_alone(
    tiny_gpt2: str,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = sentences(TextModel(tiny_gpt2, batch_size=8), "cat", 10)
    assert torch.equal(torch.rand(3), expected)
    assert sentences(TextModel(tiny_gpt2, batch_size=8), "cat", 10) == first
    assert sentences(TextModel(tiny_gpt2, batch_size=8, seed=100), "cat", 10) != first


def test_a_text_model_that_never_writes_the_word_is_given_up_after_the_stated_batches(tiny_gpt2: str) -> None:
    message = failure(TextModel(tiny_gpt2, batch_size=2, max_batches=2), "zebra", P2PZError)
    assert "only 0 of the 5" in message
    assert tiny_gpt2 in message


def test_a_folder_that_is_no_text_model_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in failure(TextModel(str(tmp_path)), "cat", ConfigError)
    assert "no folder" in failure(TextModel("./absent"), "cat", ConfigError)


def test_a_hub_id_out_of_reach_is_refused_naming_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = failure(TextModel("nobody/no-such-model"), "cat", ConfigError)
    assert "nobody/no-such-model" in message
    assert "sentences.text_model" in message


def failure(source: TextModel, word: str, kind: type[P2PZError]) -> str:
    with pytest.raises(kind) as caught:
        sentences(source, word, 5)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind
    return str(caught.value)
