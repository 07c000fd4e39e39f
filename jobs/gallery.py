"""A picture of the kinds of edits: weaker, composed, confined to a mask. One PNG, made with the embedded miniature.

    python jobs/gallery.py [OUT.png] [--count 4] [--seed 2]

A row for each held-out scene of a cat: the source; cat2dog at four strengths; cat2glasses; both composed; cat2dog
confined to the cat's mask; and where that one differs from the source, white.
"""

import argparse
from pathlib import Path

import numpy as np
from masks import drawn
from numpy.typing import NDArray
from PIL import Image

from p2pz_ray import Editor, InversionSettings
from p2pz_ray.language.sentences import template_bank
from p2pz_ray.mini.edit import WorldEdit
from p2pz_ray.mini.world import caption, render, sample_scene

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
GAP, ZOOM = 2, 2  # pixels between two pictures; how many a pixel becomes
ROOM = 6  # pixels around an animal that its mask leaves to another one's ears


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", default="gallery.png")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, help="by default the checkpoint's own")
    given = parser.parse_args(arguments)

    rng = np.random.default_rng(given.seed)
    scenes = [sample_scene(rng, kind="cat", glasses=False, held_out=True) for _ in range(given.count)]
    sources, outlines = (np.stack(parts) for parts in zip(*map(render, scenes), strict=True))
    masks = np.stack([drawn(outline, ROOM)[..., 0] > 0 for outline in outlines])
    editor = Editor.from_pretrained(given.model, inversion=InversionSettings(steps=given.steps))
    dog, glasses = (
        editor.direction(*(template_bank(word, 1000) for word in WorldEdit.parse(name).words))
        for name in ("cat2dog", "cat2glasses")
    )
    inversion = editor.invert(sources, [caption(scene, rng) for scene in scenes], range(len(scenes)))
    swept = editor.edit(inversion, [dog] * len(STRENGTHS) + [glasses, dog + glasses], [*STRENGTHS, 1.0, 1.0])
    masked = editor.edit(inversion, [dog], masks=masks)[:, 0]
    changed = np.where((masked != sources).any(axis=3, keepdims=True), np.uint8(255), np.uint8(0)).repeat(3, axis=3)
    assert not (changed.any(axis=3) & ~masks).any()

    sheet = np.stack([sources, *swept.swapaxes(0, 1), masked, changed], axis=1)
    Image.fromarray(tiled(sheet)).save(given.out, optimize=True)
    print(
        f"{given.out}: {Path(given.out).stat().st_size // 1000} kB; of the pixels outside the masks "
        f"{np.mean((masked == sources).all(axis=3)[~masks]):.0%} are the source's own"
    )
    return 0


def tiled(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns, H, W, 3) → one picture, every pixel ZOOM large."""
    framed = np.pad(pictures, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    one = np.concatenate([np.concatenate(list(row), axis=1) for row in framed])[:-GAP, :-GAP]
    return one.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


if __name__ == "__main__":
    raise SystemExit(main())
