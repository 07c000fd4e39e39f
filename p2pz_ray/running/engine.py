"""What edits pictures in a replica: the diffusion model by its directions, or a student in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from p2pz_ray.collection.partition import Partition
from p2pz_ray.collection.store import Store
from p2pz_ray.config import CheckpointConfig, InversionConfig, TranslateConfig
from p2pz_ray.editing import EditDirection, Editor, GuidanceSettings, Inversion
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.captions import Blip, Captioner
from p2pz_ray.running.direction import load_direction, loras_of
from p2pz_ray.running.inversions import Inversions
from p2pz_ray.running.job import Job
from p2pz_ray.running.pairs import image_seed
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Parts


@dataclass(frozen=True)
class Picture:
    """One decoded image, (H, W, 3) uint8, number `row` of its partition; its mask, (H, W), where there are masks."""

    row: int
    id: str
    pixels: NDArray[np.uint8]
    caption: str | None
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Edited:
    """A picture's caption in use and its edits, (K, H, W, 3) uint8; or the sentence that says why there are none.

    `faults` say of each edit why it is no picture, None where it is one; empty where all are. `flags` say of each
    whether a safety checker flagged it; empty where none looked.
    """

    caption: str | None
    pixels: NDArray[np.uint8] | None
    error: str | None = None
    faults: tuple[str | None, ...] = ()
    flags: tuple[bool, ...] = ()


class Engine(Protocol):
    """Edits pictures, partition by partition."""

    def begin(self, partition: Partition) -> None:
        """The pictures that follow are this partition's."""

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        """Edit pictures together, each as if alone. May raise what the model and the device raise."""
        ...

    def end(self) -> None:
        """The partition has no more pictures."""


class Modelled(Protocol):
    """A configuration, as far as it names a diffusion model and its settings."""

    @property
    def model(self) -> CheckpointConfig: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def compile(self) -> bool: ...
    @property
    def checkpointing(self) -> bool: ...
    @property
    def inversion(self) -> InversionConfig: ...
    @property
    def guidance(self) -> GuidanceSettings: ...


def load_editor(config: Modelled, device: str) -> Editor:
    """The configuration's model on a device. Raises ConfigError where it can't be loaded."""
    return Editor.from_pretrained(
        config.model.name,
        revision=config.model.revision,
        device=device,
        dtype=torch_dtype(config.dtype, device),
        vae=config.model.vae,
        loras=loras_of(config.model),
        compile=config.compile,
        checkpointing=config.checkpointing,
        inversion=config.inversion.settings,
        guidance=config.guidance,
    )


def in_one_pass(
    student: Student, pixels: NDArray[np.uint8], masks: NDArray[np.bool_] | None, edits: Sequence[Parts]
) -> NDArray[np.uint8]:
    """(B, H, W, 3) → the student's K edits of each (B, K, H, W, 3), outside the masks (B, H, W) its own pixels."""
    made = np.stack([student(pixels, batch_size=len(pixels), edit=parts) for parts in edits], 1)
    return made if masks is None else np.where(masks[:, None, ..., None], made, pixels[:, None])


def load_engine(job: Job, device: str) -> Engine:
    """What the job's configuration names, on a device. Raises ConfigError where a part of it can't be loaded."""
    if job.config.engine is not None:
        from p2pz_ray.running.prompted import Prompted  # which is an engine itself

        return Prompted(job, device)
    return Diffusion(job, device) if job.config.student is None else OnePass(job, device)


class Diffusion:
    """The method itself: caption, invert, edit under every direction."""

    def __init__(self, job: Job, device: str) -> None:
        config = job.config
        self.job = job
        self.editor = load_editor(config, device)
        self.directions = [_direction(job, name) for name in config.edits]
        self.strengths = [edit.strength for edit in config.edits.values()]
        seeing = config.captions.model
        blip = None if seeing is None else Blip(seeing.name, revision=seeing.revision, device=device)
        self.captioner = Captioner(config.caption_otherwise, blip)
        self.inversions: Inversions | None = None
        """Of the current partition, where a cache keeps them."""

    def begin(self, partition: Partition) -> None:
        given = self.job.config.inversion
        if given.cache is not None:
            store = Store(given.cache, given.cache_storage_options)
            self.inversions = Inversions(store, partition.id, self.editor, self.job.size)

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        pixels = np.stack([picture.pixels for picture in pictures])
        captions = self.captioner(list(pixels), [picture.caption for picture in pictures])
        seeds = [image_seed(self.job.config.seed, picture.id) for picture in pictures]
        inversion = self._inverted(pixels, captions, seeds)
        edited = self.editor.edit_each(inversion, self.directions, self.strengths, _masks(pictures))
        return [
            Edited(caption, None, faults[0]) if all(faults) else Edited(caption, pixels, faults=faults)
            for caption, pixels, faults in zip(captions, edited.pixels, edited.faults, strict=True)
        ]

    def end(self) -> None:
        if self.inversions is not None:
            self.inversions.keep()

    def _inverted(self, pixels: NDArray[np.uint8], captions: list[str], seeds: list[int]) -> Inversion:
        """The pictures' inversion: all made together, or those alone that the cache doesn't hold."""
        cache = self.inversions
        if cache is None:
            return self.editor.invert(pixels, captions, seeds)
        keys = [cache.key(*image) for image in zip(pixels, captions, seeds, strict=True)]
        found = {i: held for i, key in enumerate(keys) if (held := cache.find(key)) is not None}
        missing = [i for i in range(len(keys)) if i not in found]
        if missing:
            made = self.editor.invert(pixels[missing], [captions[i] for i in missing], [seeds[i] for i in missing])
            for i, trajectory, fault in zip(missing, made.trajectory.cpu().unbind(1), made.faults, strict=True):
                found[i] = trajectory.numpy()
                if fault is None:
                    cache.add(keys[i], found[i])
        return self.editor.inverted(np.stack([found[i] for i in range(len(keys))], 1), pixels, captions)


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
        return [Edited(caption, pixels) for caption, pixels in zip(captions, edited, strict=True)]

    def end(self) -> None:
        pass


def _masks(pictures: list[Picture]) -> NDArray[np.bool_] | None:
    """(B, H, W), None where the collection has none."""
    masks = [picture.mask for picture in pictures if picture.mask is not None]
    return np.stack(masks) if masks else None


def _direction(job: Job, name: str) -> EditDirection:
    direction = load_direction(job.folder, name)
    if direction is None or direction.digest != job.ingredients["directions"][name]:
        raise ConfigError(f"{job.config.output} has lost the direction of {name}: run the same command again.")
    return direction


def dtype_of(config: TranslateConfig, device: str) -> torch.dtype:
    """What a configuration's engine computes in on a device."""
    return torch_dtype(config.dtype, device) if config.student is None else torch.float32


def torch_dtype(name: str, device: str) -> torch.dtype:
    """What a diffusion model computes in."""
    if name == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def in_half(config: Modelled) -> bool:
    """Whether a configuration's model computes in half precision, as far as that is known before Ray is."""
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return torch_dtype(config.dtype, "cuda" if on_gpu else "cpu") != torch.float32
