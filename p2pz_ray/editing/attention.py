"""Cross-attention maps of a UNet: recorded from a reference pass, compared in an edit pass, never kept longer.

Maps exist explicitly only while they are recorded or compared; at all other times every layer runs PyTorch's fused
attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from p2pz_ray.errors import ConfigError


class Mode(Enum):
    FUSED = "fused"
    RECORD = "record"
    COMPARE = "compare"


class EnoughError(Exception):
    """Ends a forward pass after its last compared layer, if its output isn't needed."""


class CrossAttentionMaps:
    """Shared by the cross-attention layers of one UNet: the reference's maps and the loss against them.

    `recorded[layer]` is softmax(QKᵀ/√d), (rows, heads, cells, L), of the current step only. `compared` names
    the layers that are recorded and compared: all, unless `choose` selects some.
    """

    def __init__(self, unet: UNet2DConditionModel):
        self.mode = Mode.FUSED
        self.recorded: dict[str, Tensor] = {}
        self.loss: Tensor | None = None
        self.layers = frozenset(name for name in unet.attn_processors if ".attn2." in name)
        self.compared = self.layers
        self._met = 0
        self._whole = True
        self._references = slice(None)
        unet.set_attn_processor(
            {
                name: _CrossAttention(self, name) if ".attn2." in name else AttnProcessor2_0()
                for name in unet.attn_processors
            }
        )

    def choose(self, parts: Sequence[str] | None) -> None:
        """Compare only layers whose name starts with one of `parts` ("down_blocks.1", "mid_block"); None is all.

        Raises ConfigError if a part names no cross-attention layer.
        """
        for part in parts or ():
            if not any(_under(layer, part) for layer in self.layers):
                blocks = ", ".join(sorted({layer.split(".attentions")[0] for layer in self.layers}))
                raise ConfigError(f"guidance.layers names {part!r}, where no cross-attention is: choose from {blocks}")
        self.compared = frozenset(
            layer for layer in self.layers if parts is None or any(_under(layer, part) for part in parts)
        )
        if not self.compared:
            raise ConfigError("guidance.layers is empty: name a block, or leave it out for all")

    @contextmanager
    def record(self, whole: bool = True) -> Iterator[None]:
        """Within: a forward pass records its maps here, in place of any earlier ones.

        Unless `whole`, the pass ends at the last compared layer and gives no prediction.
        """
        self.recorded.clear()
        self._met, self._whole, self.mode = 0, whole, Mode.RECORD
        try:
            yield
        except EnoughError:
            pass
        finally:
            self.mode = Mode.FUSED

    @contextmanager
    def compare(self, whole: bool = False, references: slice = slice(None)) -> Iterator[None]:
        """Within: a forward pass adds up its squared distance to the recorded maps in `loss`, (rows,).

        `references` selects the recorded rows to compare with. Unless `whole`, the pass ends at the last compared
        layer and gives no prediction.
        """
        self.loss, self._references = None, references
        self._met, self._whole, self.mode = 0, whole, Mode.COMPARE
        try:
            yield
        except EnoughError:
            pass
        finally:
            self.mode = Mode.FUSED

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within: layers compute the same as under comparison, but `loss` is not changed. For the backward pass through
        checkpointed blocks, which are computed again."""
        kept, self.mode = self.loss, Mode.COMPARE
        try:
            yield
        finally:
            self.mode, self.loss = Mode.FUSED, kept

    def clear(self) -> None:
        self.recorded.clear()
        self.loss = None

    @property
    def enough(self) -> bool:
        """Whether the current pass may end here."""
        return not self._whole and self._met == len(self.compared)

    def meet(self, layer: str, maps: Tensor) -> None:
        """Handle one layer's maps, depending on the mode.

        Under comparison there may be K edited rows for each recorded one, in the order of the images. A layer's
        distance is summed over cells and tokens and averaged over heads.
        """
        self._met += 1
        if self.mode is Mode.RECORD:
            self.recorded[layer] = maps.detach()
            return
        reference = self.recorded[layer][self._references]
        edits = maps.unflatten(0, (len(reference), -1))  # (B, K, heads, cells, L)
        distance = (edits - reference[:, None]).square().sum((3, 4)).mean(2).flatten()
        self.loss = distance if self.loss is None else self.loss + distance


class _CrossAttention:
    """The attention processor of one cross-attention layer."""

    def __init__(self, maps: CrossAttentionMaps, layer: str):
        self.maps, self.layer = maps, layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        # (rows, heads, cells or tokens, channels of a head)
        q = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        k = attn.to_k(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        v = attn.to_v(context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        if self.maps.mode is Mode.FUSED or self.layer not in self.maps.compared:
            out = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        else:
            if attn.upcast_attention:  # Stable Diffusion 2.1: its products overflow half precision
                q, k = q.float(), k.float()
            # The softmax at least in float32 whatever the weights are: its small differences are what guides.
            scores = (q @ k.transpose(-1, -2)).to(torch.promote_types(q.dtype, torch.float32))
            maps = torch.softmax(scores * attn.scale, dim=-1)
            self.maps.meet(self.layer, maps)
            if self.maps.enough:
                raise EnoughError
            out = maps.to(v.dtype) @ v
        out = out.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def _under(layer: str, part: str) -> bool:
    return layer == part or layer.startswith(part + ".")
