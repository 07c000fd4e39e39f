"""Whether it is right: half precisions beside float32, and a batch beside each of its pictures alone."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu.machine import DTYPES, precision
from gpu.weights import CAPTIONS, SOURCE, TARGET, Weights, run


def gradient(editor: Any, x_ref: Any, x: Any, scale: float = 1.0) -> Any:
    """The guidance loss's gradient at x, its maps compared with those of x_ref; the loss times `scale` on the way."""
    model, maps, t, level = editor.model, editor.maps, 401, 0.5
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(len(x))]
    c = model.embed(captions)
    edited = c + editor.direction(SOURCE, TARGET).condition.each(
        lambda part: part.to(model.device).expand(len(x), *part.shape[1:])
    )
    with torch.no_grad(), maps.record(whole=False):
        model.predict(x_ref, t, c, level, watched=True)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        with maps.compare(whole=False):
            model.predict(leaf, t, edited, level, watched=True)
        (found,) = torch.autograd.grad(maps.loss.sum() * scale, leaf)
    maps.clear()
    return found / scale


def off(made: Any, right: Any) -> float:
    """The relative distance of two tensors."""
    return float((made.float() - right.float()).norm() / right.float().norm())


def agreement(weights: Weights, kept: dict[str, Any], name: str, steps: int, count: int) -> list[dict[str, Any]]:
    """One precision beside float32: everything from the same pictures, the gradient at float32's own latents."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        inversion, latents, made = run(editor, pictures, steps)
        if name == "float32":
            noise = torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(5)).to(latents.device)
            kept["points"] = (inversion.trajectory[-1], inversion.trajectory[-1] + 0.3 * noise)
        plain = gradient(editor, *kept["points"])
        scaled = gradient(editor, *kept["points"], scale=1024.0)
    row: dict[str, Any] = {"weights": name, "steps": steps, "pictures": count}
    row["finite"] = bool(torch.isfinite(latents).all() and torch.isfinite(plain).all())
    if name == "float32":
        kept.update(inversion=inversion.trajectory[-1], latents=latents, made=made, gradient=plain)
        row |= {"size of ε": float(_epsilon(editor, inversion).std()), "size of the gradient": float(plain.std())}
        return [row]
    grey = np.abs(made.astype(int) - kept["made"].astype(int))
    row |= {
        "x_T off": off(inversion.trajectory[-1], kept["inversion"]),
        "edited latents off": off(latents, kept["latents"]),
        "gradient off": off(plain, kept["gradient"]),
        "gradient off, loss × 1024": off(scaled, kept["gradient"]),
        "zeros in the gradient": float((plain == 0).float().mean()),
        "grey levels off, mean": float(grey.mean()),
        "most": int(grey.max()),
    }
    return [row]


def _epsilon(editor: Any, inversion: Any) -> Any:
    with torch.no_grad():
        return editor.model.predict(inversion.trajectory[-1], 401, inversion.c, 0.5)


def text_precision(weights: Weights) -> list[dict[str, Any]]:
    """The text half in half precision beside float32, which it is always loaded in."""
    from p2pz_ray.editing.text import TextEncoder

    right = weights.text.embed(CAPTIONS).tokens
    rows = []
    for name in ("bfloat16", "float16"):
        encoders = [copy.deepcopy(encoder).to(DTYPES[name]) for encoder in weights.text.encoder]
        text = TextEncoder(weights.text.tokenizers, encoders)
        rows.append(
            {"weights": name, "sentences": len(CAPTIONS), "tokens off": off(text.embed(CAPTIONS).tokens, right)}
        )
    return rows


def isolation(weights: Weights, name: str, steps: int, count: int = 4) -> list[dict[str, Any]]:
    """A batch beside each of its pictures alone, and beside itself again."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        _, together, made = run(editor, pictures, steps)
        _, again, _ = run(editor, pictures, steps)
        alone = []
        for i in range(count):
            editor.inversion = replace(editor.inversion, steps=steps)
            inversion = editor.invert(pictures[i : i + 1], [CAPTIONS[i % len(CAPTIONS)]], [i])
            alone.append(editor.edit_latents(inversion, [editor.direction(SOURCE, TARGET)]))
        singles = torch.cat(alone)
        grey = np.abs(editor.model.decode(singles.flatten(0, 1))[0].astype(int) - made.astype(int))
    return [
        {
            "weights": name,
            "batch": count,
            "steps": steps,
            "edited latents off": off(together, singles),
            "bit for bit": bool(torch.equal(together, singles)),
            "grey levels off, mean": float(grey.mean()),
            "most": int(grey.max()),
            "again bit for bit": bool(torch.equal(together, again)),
        }
    ]
