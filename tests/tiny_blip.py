"""A captioning checkpoint with a few random weights."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import BlipConfig, BlipForConditionalGeneration, PreTrainedTokenizerFast

SIZE = 32


def save_tiny_blip(folder: Path) -> Path:
    """A random BLIP of 32 px and two dozen words, saved as real checkpoints are."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "a the cat dog horse sits sleeps on in grass snow red small big and of house"
    vocabulary = [*special, *words.split(" ")]
    wordpiece = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    wordpiece.decoder = decoders.WordPiece()
    named = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=wordpiece, **named).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {**shape, **tokens, "vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 40}
    vision = {**shape, "image_size": SIZE, "patch_size": 8, "initializer_range": 0.02}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    # Random weights of the usual scale write nothing, or the same for every image: make them heed what they see.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(25)
        model.text_decoder.cls.predictions.bias[: len(special)] = -50.0
    model.save_pretrained(folder)
    settings = {
        "do_normalize": True,
        "do_resize": True,
        "image_processor_type": "BlipImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": {"height": SIZE, "width": SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder
