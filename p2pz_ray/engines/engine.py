"""The engines that edit pictures in a replica: the diffusion model with directions, or a student in one pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pz_ray.collection.partition import Partition
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing import EditDirection, Editor, Inversion
from p2pz_ray.editing.control import Control
from p2pz_ray.editing.mask import Mask, mixed
from p2pz_ray.engines.determinism import make_deterministic
from p2pz_ray.engines.direction import load_direction, loras_of
from p2pz_ray.engines.edited import Edited, Engine, Picture
from p2pz_ray.engines.inversions import Inversions
from p2pz_ray.engines.job import Job
from p2pz_ray.engines.precision import Modelled, torch_dtype
from p2pz_ray.engines.prompted import Prompted
from p2pz_ray.engines.seed import image_seed
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.captions import Blip, Captioner
from p2pz_ray.mini import CONTROL
from p2pz_ray.storage.store import Store
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Parts


def controls_of(config: TranslateConfig) -> list[Control]:
    """The controls that a configuration names."""
    return [
        Control(CONTROL if c.model == "mini" else Path(c.model).expanduser(), c.weight, c.source or "given")
        for c in config.conditions
    ]


def load_editor(config: Modelled, device: str, **settings: Any) -> Editor:
    """The configuration's model on a device; `settings` are the editor's own. Raises ConfigError where it can't be
    loaded."""
    return Editor.from_pretrained(
        config.model.name,
        revision=config.model.revision,
        layout=config.model.layout,
        device=device,
        dtype=torch_dtype(config.dtype, device),
        vae=config.model.vae,
        loras=loras_of(config.model),
        compile=config.compile,
        checkpointing=config.checkpointing,
        inversion=config.inversion.settings,
        guidance=config.guidance,
        **settings,
    )


def in_one_pass(
    student: Student, pixels: NDArray[np.uint8], masks: Mask | None, edits: Sequence[Parts]
) -> NDArray[np.uint8]:
    """(B, H, W, 3) → the student's K edits of each (B, K, H, W, 3); outside the masks (B, H, W) the source's pixels. A
    student has no noise levels: mask values between 0 and 1 blend the two."""
    made = np.stack([student(pixels, batch_size=len(pixels), edit=parts) for parts in edits], 1)
    return made if masks is None else mixed(made, pixels[:, None], masks[:, None])


def load_engine(job: Job, device: str) -> Engine:
    """The engine of the job's configuration, on a device. Raises ConfigError if part of it can't be loaded."""
    if job.config.deterministic:
        make_deterministic()
    if job.config.engine is not None:
        return Prompted(job, device)
    return Diffusion(job, device) if job.config.student is None else OnePass(job, device)


class Diffusion:
    """The method itself: caption, invert, edit under every direction."""

    def __init__(self, job: Job, device: str) -> None:
        config = job.config
        self.job = job
        told = {"controls": controls_of(config), "controls_act": config.conditions_act} if config.conditions else {}
        self.editor = load_editor(config, device, **told)
        self.directions = [_direction(job, name) for name in config.edits]
        self.strengths = [edit.strength for edit in config.edits.values()]
        seeing = config.captions.model
        blip = None if seeing is None else Blip(seeing.name, revision=seeing.revision, device=device)
        self.captioner = Captioner(config.caption_otherwise, blip)
        self.inversions: Inversions | None = None
        """The current partition's, if there is a cache."""

    def begin(self, partition: Partition) -> None:
        given = self.job.config.inversion
        if given.cache is not None:
            store = Store(given.cache, given.cache_storage_options)
            self.inversions = Inversions(store, partition.id, self.editor, self.job.size)

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        pixels = np.stack([picture.pixels for picture in pictures])
        captions = self.captioner(list(pixels), [picture.caption for picture in pictures])
        seeds = [image_seed(self.job.config.seed, picture.id) for picture in pictures]
        conditions = self._conditions(pictures)
        inversion = self._inverted(pixels, captions, seeds, conditions)
        edited = self.editor.edit_each(inversion, self.directions, self.strengths, _masks(pictures))
        masks = [None] * len(pictures) if edited.masks is None else list(edited.masks)
        kept = self.job.config.output_format.conditions
        shown = self.editor.controls.pictures(pixels, conditions) if kept else []
        return [
            Edited(caption, None, faults[0])
            if all(faults)
            else Edited(caption, edits, faults=faults, masks=mask, conditions=tuple(each[i] for each in shown))
            for i, (caption, edits, faults, mask) in enumerate(
                zip(captions, edited.pixels, edited.faults, masks, strict=True)
            )
        ]

    def end(self) -> None:
        if self.inversions is not None:
            self.inversions.keep()

    def _conditions(self, pictures: list[Picture]) -> list[NDArray[np.uint8] | None]:
        """For each condition its pictures (B, H, W, 3), None for one that makes them itself."""
        at = {name: i for i, name in enumerate(self.job.columns.conditions)}
        return [
            None if each.column is None else np.stack([picture.conditions[at[each.column]] for picture in pictures])
            for each in self.job.config.conditions
        ]

    def _inverted(
        self,
        pixels: NDArray[np.uint8],
        captions: list[str],
        seeds: list[int],
        conditions: list[NDArray[np.uint8] | None],
    ) -> Inversion:
        """The pictures' inversion: taken from the cache as far as possible, and the rest made in one batch."""
        cache = self.inversions
        if cache is None:
            return self.editor.invert(pixels, captions, seeds, conditions)
        # The inversion depends on these conditions, so they are part of the key.
        told = [each for each in conditions if each is not None] if self.editor.controls_act == "all" else []
        shown = np.concatenate([pixels, *told], axis=1)
        keys = [cache.key(*image) for image in zip(shown, captions, seeds, strict=True)]
        found = {i: held for i, key in enumerate(keys) if (held := cache.find(key)) is not None}
        missing = [i for i in range(len(keys)) if i not in found]
        if missing:
            made = self.editor.invert(
                pixels[missing],
                [captions[i] for i in missing],
                [seeds[i] for i in missing],
                [None if each is None else each[missing] for each in conditions],
            )
            for i, trajectory, fault in zip(missing, made.trajectory.cpu().unbind(1), made.faults, strict=True):
                found[i] = trajectory.numpy()
                if fault is None:
                    cache.add(keys[i], found[i])
        return self.editor.inverted(np.stack([found[i] for i in range(len(keys))], 1), pixels, captions, conditions)


class OnePass:
    """A student: each edit in one forward pass. A picture's caption is kept for whoever reads the pairs."""

    def __init__(self, job: Job, device: str) -> None:
        assert job.config.student is not None
        self.student = Student.from_pretrained(job.config.student, device)
        if self.student.digest != job.ingredients["student"]:
            raise ConfigError(
                f"student {job.config.student} is not what it was when the run was begun: restore it, or choose "
                "another output."
            )
        self.edits = [job.config.parts_of(name) for name in job.config.edits]
        self.captioner = Captioner(job.config.caption_otherwise)

    def begin(self, partition: Partition) -> None:
        pass

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        pixels = np.stack([picture.pixels for picture in pictures])
        captions = self.captioner(list(pixels), [picture.caption for picture in pictures])
        edited = in_one_pass(self.student, pixels, _masks(pictures), self.edits)
        return [
            Edited(caption, made, masks=None if picture.mask is None else np.stack([picture.mask] * len(made)))
            for caption, made, picture in zip(captions, edited, pictures, strict=True)
        ]

    def end(self) -> None:
        pass


def _masks(pictures: list[Picture]) -> NDArray[np.float32] | None:
    """(B, H, W), None if the collection has no masks."""
    masks = [picture.mask for picture in pictures if picture.mask is not None]
    return np.stack(masks) if masks else None


def _direction(job: Job, name: str) -> EditDirection:
    direction = load_direction(job.folder, name)
    if direction is None or direction.digest != job.ingredients["directions"][name]:
        raise ConfigError(f"{job.config.output} has lost the direction of {name}: run the same command again.")
    return direction
