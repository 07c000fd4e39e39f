"""Sentences written by a causal language model of the transformers library, on this machine."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained
from p2pz_ray.language.sentences import collect

# A model without a chat template only continues text, so it gets the beginning of a list of captions.
_EXAMPLES = (
    "A photo of a small {word} in the garden",
    "The {word} sleeps by the window",
    "We saw a {word} at sunset",
)


@dataclass(frozen=True)
class TextModel:
    """A folder in `save_pretrained` layout, or a hub id with its `revision`.

    A model with a chat template is prompted; one without continues a list of examples. Text is sampled at
    `temperature` in batches of `batch_size` continuations of at most `max_new_tokens` tokens, seeded with
    `seed`; lines without the word are dropped, and sampling goes on for at most `max_batches` batches
    per word (None: ten times as many as are needed if every continuation gives one good sentence, and at
    least 20).
    """

    model: str
    revision: str | None = None
    device: str = "cpu"
    batch_size: int = 16
    max_batches: int | None = None
    max_new_tokens: int = 120
    temperature: float = 1.0
    seed: int = 0

    def sentences(self, word: str, count: int) -> list[str]:
        """`count` different sentences with `word`. ConfigError for a model that can't be loaded, P2PZError
        for one that writes too few."""
        limit = self.max_batches or max(20, 10 * math.ceil(count / self.batch_size))
        return collect(self._texts(word, limit), word, count, f"The text model {self.model}")

    def _texts(self, word: str, limit: int) -> Iterator[str]:
        tokenizer: Any = load_pretrained(AutoTokenizer, self.model, self.revision, "sentences.text_model")
        model: Any = load_pretrained(AutoModelForCausalLM, self.model, self.revision, "sentences.text_model")
        model = model.to(self.device).eval()
        prompt = self._prompt(tokenizer, word)  # (1, L)
        room = getattr(model.config, "max_position_embeddings", None) or prompt.shape[1] + self.max_new_tokens
        new_tokens = min(self.max_new_tokens, room - prompt.shape[1])
        if new_tokens < 8:
            raise ConfigError(
                f"The text model {self.model} reads {room} tokens, too few for a prompt of {prompt.shape[1]}: set "
                "sentences.text_model to a larger model."
            )
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        devices = [model.device] if model.device.type == "cuda" else []
        for batch in range(limit):
            # generate() draws from the global generators: seed them for this batch, then put them back.
            with torch.random.fork_rng(devices=devices), torch.inference_mode():
                torch.manual_seed(self.seed + batch)
                tokens = model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    do_sample=True,
                    temperature=self.temperature,
                    top_k=0,
                    top_p=0.95,
                    num_return_sequences=self.batch_size,
                    max_new_tokens=new_tokens,
                    pad_token_id=pad if pad is not None else 0,
                )
            for continuation in tokens[:, prompt.shape[1] :]:
                text = tokenizer.decode(continuation, skip_special_tokens=True)
                # The last line is incomplete if the tokens ran out before the model was done.
                ended = bool(torch.isin(continuation, _ends(model)).any())
                yield text if ended else text.rpartition("\n")[0]

    def _prompt(self, tokenizer: Any, word: str) -> torch.Tensor:
        if tokenizer.chat_template:
            ask = (
                f'Write ten different short image captions that contain "{word}", one a line, with no other text. '
                f'Vary the scene, the adjectives, the verbs and the place of "{word}" in the sentence.'
            )
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": ask}], add_generation_prompt=True, tokenize=False
            )
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        else:
            text = "".join(f"{example.format(word=word)}\n" for example in _EXAMPLES)
            ids = tokenizer(f"Captions of images with {word}:\n{text}", return_tensors="pt").input_ids
        return ids.to(self.device)


def _ends(model: Any) -> torch.Tensor:
    """The token ids that end a text, however many the model has."""
    ends = model.generation_config.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=model.device).reshape(-1)
