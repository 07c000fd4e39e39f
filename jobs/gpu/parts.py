"""The time of each part of a step, and what torch.compile saves."""

from collections.abc import Callable
from typing import Any

import torch

from gpu.agreement import gradient, relative_error
from gpu.machine import DTYPES
from gpu.weights import CAPTIONS, Weights


def passes(weights: Weights, editor: Any, name: str, B: int) -> list[dict[str, Any]]:
    """Milliseconds of a UNet pass, a guided gradient, the noise's regularization, and the autoencoder's encoding and
    decoding."""
    from p2pz_ray.editing.inversion import regularize
    from p2pz_ray.editing.settings import InversionSettings

    machine, model = weights.machine, editor.model
    side = weights.family.pixels // model.factor
    x = torch.randn(B, 4, side, side, device=machine.name)
    pictures, c = weights.pictures(B), model.embed([CAPTIONS[0]] * B)

    def plain() -> Any:
        with torch.no_grad():
            return model.predict(x, 401, c, 0.5)

    def noise(kind: str) -> Callable[[], Any]:
        settings = InversionSettings(regularization=kind)
        return lambda: regularize(x, [torch.Generator().manual_seed(i) for i in range(B)], settings)

    work: dict[str, Callable[[], Any]] = {
        "pass": plain,
        "gradient, with the reference's pass": lambda: gradient(editor, x, x + 0.1),
        "regularization, sampled": noise("sampled"),
        "regularization, full": noise("full"),
        "encode": lambda: model.encode(pictures),
        "decode": lambda: model.decode(x),
    }
    row: dict[str, Any] = {"weights": name, "batch": B}
    for part, call in work.items():
        call()
        row[f"{part}, ms"] = 1000 * min(machine.timed(call)[0] for _ in range(3))
    return [row]


def compiled(weights: Weights, name: str, B: int, whole: bool) -> list[dict[str, Any]]:
    """torch.compile of the `whole` UNet, or of one small part, which shows whether there is a compiler at all."""
    editor = weights.editor(name)
    model, machine = editor.model, weights.machine
    side = weights.family.pixels // model.factor
    x, c = torch.randn(B, 4, side, side, device=machine.name), model.embed([CAPTIONS[0]] * B)
    if whole:

        def work() -> Any:
            with torch.no_grad():
                return model.predict(x, 401, c, 0.5)

        eager = work()
        before = min(machine.timed(work)[0] for _ in range(3))
        model.compile()
        what = "UNet"
    else:
        part = model.unet.time_embedding
        features = torch.randn(B, part.linear_1.in_features, device=machine.name, dtype=DTYPES[name])
        current: dict[str, Any] = {"part": part}

        def work() -> Any:
            with torch.no_grad():
                return current["part"](features)

        eager = work()
        before = min(machine.timed(work)[0] for _ in range(3))
        current["part"] = torch.compile(part)
        what = "time embedding"
    first, output = machine.timed(work)
    after = min(machine.timed(work)[0] for _ in range(3))
    return [
        {
            "what": what,
            "weights": name,
            "batch": B,
            "eager, ms": 1000 * before,
            "compiled, ms": 1000 * after,
            "first call, seconds": first,
            "relative error": relative_error(output, eager),
        }
    ]
