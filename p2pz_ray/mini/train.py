"""Train the miniature Stable Diffusion on its world: `python -m p2pz_ray.mini.train MODEL`, one of vae, decoder, clip,
judge, unet and control.

The recipe is in `recipe.yaml`. A training that was killed resumes from its last checkpoint. The VAE and the UNet also
write sample pictures from time to time. `export` writes the trained models as the miniature's folder; `restore` turns
such a folder back into checkpoints, so that a UNet can be trained on them.
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
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = yaml.safe_load(args.recipe.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "export":
        from p2pz_ray.mini.training.export import export

        export(recipe, args.out, args.miniature)
        return
    if args.what == "restore":
        from p2pz_ray.mini.training.export import restore

        restore(recipe, args.out, args.miniature)
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
    trainings[args.what](recipe, args.out)


if __name__ == "__main__":
    main()
