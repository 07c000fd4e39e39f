"""Train the miniature Stable Diffusion on its world: `python -m p2pz_ray.mini.train MODEL`, one of vae, decoder, clip,
judge, unet and control.

The recipe stands in `recipe.yaml`. Training is resumable: a run killed at any moment goes on from its last
checkpoint, and every few hundred steps a sample sheet is written beside it to look at. `export` makes the miniature's
folder of what is trained; `restore` makes finished checkpoints of such a folder, to train a UNet on them.
"""

import argparse
from pathlib import Path

import torch
import yaml

RECIPE = Path(__file__).parent / "recipe.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m p2pz_ray.mini.train", description=__doc__)
    parser.add_argument("what", choices=["vae", "decoder", "clip", "judge", "unet", "control", "export", "restore"])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path("training"), help="checkpoints and sample sheets")
    parser.add_argument(
        "--miniature", type=Path, default=RECIPE.parent, help="the folder that export writes and restore reads"
    )
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    recipe = yaml.safe_load(given.recipe.read_text())
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "export":
        from p2pz_ray.mini.training.export import export

        export(recipe, given.out, given.miniature)
        return
    if given.what == "restore":
        from p2pz_ray.mini.training.export import restore

        restore(recipe, given.out, given.miniature)
        return
    from p2pz_ray.mini.training import clip, control, judge, unet, vae

    trainings = {
        "vae": vae.train_vae,
        "decoder": vae.train_decoder,
        "clip": clip.train_clip,
        "judge": judge.train_judge,
        "unet": unet.train_unet,
        "control": control.train_control,
    }
    trainings[given.what](recipe, given.out)


if __name__ == "__main__":
    main()
