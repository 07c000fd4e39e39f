"""A checkpoint's folder as one .safetensors file in the layout of Stable Diffusion's own code."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def save_single_file(folder: Path, file: Path, **besides: Tensor) -> Path:
    """`besides` are tensors that the file holds as well."""
    xl = (folder / "text_encoder_2").is_dir()
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in unet_tensors(folder).items()}
    tensors |= {f"first_stage_model.{name}": tensor for name, tensor in vae_tensors(folder).items()}
    first, second = (weights(folder / f"text_encoder{n}" / "model.safetensors") for n in ("", "_2" if xl else ""))
    if xl:
        tensors |= {f"conditioner.embedders.0.transformer.{name}": tensor for name, tensor in wrapped(first).items()}
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in open_clip(second).items()}
    elif linear(folder):
        tensors |= {f"cond_stage_model.model.{name}": tensor for name, tensor in open_clip(first).items()}
    else:
        tensors |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in wrapped(first).items()}
    save_file({name: tensor.contiguous().clone() for name, tensor in (tensors | besides).items()}, file)
    return file


def weights(file: Path) -> Tensors:
    return load_file(file)


def linear(folder: Path) -> bool:
    """Whether it is of the second family, whose text encoder is OpenCLIP's."""
    return bool(UNet2DConditionModel.load_config(folder / "unet")["use_linear_projection"])


def wrapped(text: Tensors) -> Tensors:
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in text.items()}


def unet_tensors(folder: Path) -> Tensors:
    config: dict[str, Any] = dict(UNet2DConditionModel.load_config(folder / "unet"))
    count, levels = config["layers_per_block"], len(config["block_out_channels"])
    places = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    at = 1
    for level in range(levels):
        for layer in range(count):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{at}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{at}.1"
            at += 1
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{at}.0.op"
        at += 1
    at = 0
    for level in range(levels):
        for layer in range(count + 1):
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{at}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{at}.1"
            at += 1
        after = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{at - 1}.{after}.conv"
    return renamed(weights(folder / "unet" / "diffusion_pytorch_model.safetensors"), places, RESNET)


def vae_tensors(folder: Path) -> Tensors:
    config: dict[str, Any] = dict(AutoencoderKL.load_config(folder / "vae"))
    count, levels = config["layers_per_block"], len(config["block_out_channels"])
    places = {name: name for name in ("quant_conv", "post_quant_conv")}
    for half in ("encoder", "decoder"):
        places |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        places[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        places |= {f"{half}.mid_block.resnets.{i}": f"{half}.mid.block_{i + 1}" for i in range(2)}
        places[f"{half}.mid_block.attentions.0"] = f"{half}.mid.attn_1"
    for level in range(levels):
        for layer in range(count):
            places[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
        for layer in range(count + 1):
            places[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"decoder.up.{levels - 1 - level}.block.{layer}"
        places[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        places[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{levels - 1 - level}.upsample.conv"
    inner = {"conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v"}
    inner["to_out.0"] = "proj_out"
    found = renamed(weights(folder / "vae" / "diffusion_pytorch_model.safetensors"), places, inner)
    attention = {name for name in found if ".mid.attn_1." in name and name.endswith("weight") and ".norm." not in name}
    return {name: tensor[:, :, None, None] if name in attention else tensor for name, tensor in found.items()}


def renamed(tensors: Tensors, places: dict[str, str], inner: dict[str, str]) -> Tensors:
    """With the longest of `places` that a name begins with in its new form, and what follows by `inner`."""
    made = {}
    for name, tensor in tensors.items():
        place = max((p for p in places if name.startswith(f"{p}.")), key=len)
        rest = name.removeprefix(f"{place}.")
        old = next((i for i in inner if rest.startswith(f"{i}.")), None)
        made[f"{places[place]}.{rest if old is None else inner[old] + rest.removeprefix(old)}"] = tensor
    return made


def open_clip(text: Tensors) -> Tensors:
    text = {name.removeprefix("text_model."): tensor for name, tensor in text.items()}
    made = {
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
    }
    width = len(made["ln_final.weight"])
    made["text_projection"] = text["text_projection.weight"].T if "text_projection.weight" in text else torch.eye(width)
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    inner["self_attn.out_proj"] = "attn.out_proj"
    for layer in range(sum(name.endswith("layer_norm1.bias") for name in text)):
        old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            made |= {f"{new}.{inner[i]}.{kind}": text[f"{old}.{i}.{kind}"] for i in inner}
            made[f"{new}.attn.in_proj_{kind}"] = torch.cat([text[f"{old}.self_attn.{i}_proj.{kind}"] for i in "qkv"])
    return made
