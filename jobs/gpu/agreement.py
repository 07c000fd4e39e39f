"""Correctness: half precisions against float32, and a batch against the same pictures one at a time."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu.machine import DTYPES, precision
from gpu.weights import CAPTIONS, SOURCE, TARGET, Weights, run


def gradient(editor: Any, x_ref: Any, x: Any, scale: float = 1.0) -> Any:
    """The guidance loss's gradient at x, whose maps are compared with those of x_ref. The loss is multiplied by `scale`
    before the backward pass, and the gradient divided by it after."""
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
        (scaled,) = torch.autograd.grad(maps.loss.sum() * scale, leaf)
    maps.clear()
    return scaled / scale


def relative_error(actual: Any, expected: Any) -> float:
    """‖actual - expected‖ / ‖expected‖."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def agreement(weights: Weights, kept: dict[str, Any], name: str, steps: int, count: int) -> list[dict[str, Any]]:
    """One precision against float32, from the same pictures; the gradient is taken at float32's latents. `kept` holds
    float32's results, which the first call puts there."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        inversion, latents, edited = run(editor, pictures, steps)
        if name == "float32":
            noise = torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(5)).to(latents.device)
            kept["points"] = (inversion.trajectory[-1], inversion.trajectory[-1] + 0.3 * noise)
        plain = gradient(editor, *kept["points"])
        scaled = gradient(editor, *kept["points"], scale=1024.0)
    row: dict[str, Any] = {"weights": name, "steps": steps, "pictures": count}
    row["finite"] = bool(torch.isfinite(latents).all() and torch.isfinite(plain).all())
    if name == "float32":
        kept.update(inversion=inversion.trajectory[-1], latents=latents, edited=edited, gradient=plain)
        row |= {"size of ε": float(_epsilon(editor, inversion).std()), "size of the gradient": float(plain.std())}
        return [row]
    grey = np.abs(edited.astype(int) - kept["edited"].astype(int))
    row |= {
        "x_T error": relative_error(inversion.trajectory[-1], kept["inversion"]),
        "edited latents error": relative_error(latents, kept["latents"]),
        "gradient error": relative_error(plain, kept["gradient"]),
        "gradient error, loss × 1024": relative_error(scaled, kept["gradient"]),
        "share of zeros in the gradient": float((plain == 0).float().mean()),
        "grey level error, mean": float(grey.mean()),
        "max": int(grey.max()),
    }
    return [row]


def _epsilon(editor: Any, inversion: Any) -> Any:
    with torch.no_grad():
        return editor.model.predict(inversion.trajectory[-1], 401, inversion.c, 0.5)


def text_precision(weights: Weights) -> list[dict[str, Any]]:
    """The text encoders in half precision against float32, in which they are always loaded."""
    from p2pz_ray.editing.text import TextEncoder

    expected = weights.text.embed(CAPTIONS).tokens
    rows = []
    for name in ("bfloat16", "float16"):
        encoders = [copy.deepcopy(encoder).to(DTYPES[name]) for encoder in weights.text.encoder]
        text = TextEncoder(weights.text.tokenizers, encoders)
        error = relative_error(text.embed(CAPTIONS).tokens, expected)
        rows.append({"weights": name, "sentences": len(CAPTIONS), "tokens error": error})
    return rows


def isolation(weights: Weights, name: str, steps: int, count: int = 4) -> list[dict[str, Any]]:
    """A batch against the same pictures one at a time, and against a repetition of itself."""
    editor, pictures = weights.editor(name), weights.pictures(count)
    with precision(name):
        _, together, edited = run(editor, pictures, steps)
        _, repeated, _ = run(editor, pictures, steps)
        singles = []
        for i in range(count):
            editor.inversion = replace(editor.inversion, steps=steps)
            inversion = editor.invert(pictures[i : i + 1], [CAPTIONS[i % len(CAPTIONS)]], [i])
            singles.append(editor.edit_latents(inversion, [editor.direction(SOURCE, TARGET)]))
        separate = torch.cat(singles)
        grey = np.abs(editor.model.decode(separate.flatten(0, 1))[0].astype(int) - edited.astype(int))
    return [
        {
            "weights": name,
            "batch": count,
            "steps": steps,
            "edited latents error": relative_error(together, separate),
            "bit for bit": bool(torch.equal(together, separate)),
            "grey level error, mean": float(grey.mean()),
            "max": int(grey.max()),
            "repeat bit for bit": bool(torch.equal(together, repeated)),
        }
    ]
