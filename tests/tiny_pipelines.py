"""Checkpoints of image-to-image pipelines of diffusers' own, in their true layouts, with a few random weights."""

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast


def save_tiny_instructpix2pix(folder: Path, model: Path) -> Path:
    """`model` with a UNet that takes the source picture besides."""
    torch.manual_seed(5)
    shutil.copytree(model, folder)
    config = dict(UNet2DConditionModel.load_config(folder / "unet"))
    UNet2DConditionModel.from_config({**config, "in_channels": 8}).save_pretrained(folder / "unet")
    index = folder / "model_index.json"
    name = StableDiffusionInstructPix2PixPipeline.__name__
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', f'"{name}"'))
    return folder


def save_tiny_kontext(folder: Path, words: Path) -> Path:
    """A transformer over the patches of a picture and of its source, CLIP and T5; `words` holds a CLIP tokenizer."""
    torch.manual_seed(6)
    clip = CLIPTokenizer.from_pretrained(words)
    text = CLIPTextConfig(
        vocab_size=len(clip.get_vocab()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=clip.model_max_length,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
    )
    pieces = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)], 2, False))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    t5 = T5TokenizerFast(tokenizer_object=pieces, extra_ids=0, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    FluxKontextPipeline(
        FlowMatchEulerDiscreteScheduler(),
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.0609,
            scaling_factor=1.5035,
        ),
        CLIPTextModel(text),
        clip,
        T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
        t5,
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder)
    return folder
