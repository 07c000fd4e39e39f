"""Layouts of checkpoints: the true ones of Stable Diffusion 1.5, 2.1 and XL, and tiny ones of the same shape."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Text:
    """A text encoder's layout; `projection` is the width of its pooled embedding, 0 where it has none."""

    width: int
    layers: int
    heads: int
    wide: int
    projection: int = 0
    act: str = "gelu"


@dataclass(frozen=True)
class Family:
    """A checkpoint's layout."""

    pixels: int
    unet: dict[str, Any]
    texts: tuple[Text, ...]
    vae: dict[str, Any]
    prediction: str = "epsilon"
    vocabulary: int = 49408


_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}
TRUE = {
    "SD 1.5": Family(
        512,
        {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
        (Text(768, 12, 12, 3072, act="quick_gelu"),),
        _VAE,
    ),
    "SD 2.1": Family(
        768,
        {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        (Text(1024, 23, 16, 4096),),
        _VAE,
        "v_prediction",
    ),
    "SDXL": Family(
        1024,
        {
            **_XL,
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        (Text(768, 12, 12, 3072, act="quick_gelu"), Text(1280, 32, 20, 5120, projection=1280)),
        {**_VAE, "scaling_factor": 0.13025, "force_upcast": True},
    ),
}
_TINY_VAE = {**_VAE, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
_TINY_UNET = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 16}
_TWO = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TINY = {
    "SD 1.5": Family(
        64, {**_TINY_UNET, **_TWO, "attention_head_dim": 8}, (Text(16, 1, 2, 32),), _TINY_VAE, vocabulary=128
    ),
    "SD 2.1": Family(
        64,
        {**_TINY_UNET, **_TWO, "attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
        (Text(16, 1, 2, 32),),
        _TINY_VAE,
        "v_prediction",
        128,
    ),
    "SDXL": Family(
        64,
        {
            **_TINY_UNET,
            **_XL,
            "block_out_channels": (16, 32, 32),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (2, 4, 4),
            "cross_attention_dim": 40,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        },
        (Text(16, 2, 2, 32), Text(24, 2, 2, 32, projection=24)),
        {**_TINY_VAE, "force_upcast": True},
        vocabulary=128,
    ),
}
