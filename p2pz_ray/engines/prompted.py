"""An engine that edits by prompts: one of diffusers' own image-to-image pipelines."""

import numpy as np

from p2pz_ray.collection.partition import Partition
from p2pz_ray.config.edits import EditConfig
from p2pz_ray.editing.checkpoint.files import locate
from p2pz_ray.editing.mask import mixed
from p2pz_ray.editing.pipeline import Pipeline, pipeline_kind
from p2pz_ray.engines.edited import Edited, Picture
from p2pz_ray.engines.job import Job
from p2pz_ray.engines.precision import dtype_of
from p2pz_ray.engines.seed import image_seed
from p2pz_ray.errors import ImageError
from p2pz_ray.language.captions import Blip, Captioner
from p2pz_ray.language.sentences import swapped


class Prompted:
    """Edits one picture at a time with the prompt of every edit. Raises ConfigError if the pipeline can't be loaded."""

    def __init__(self, job: Job, device: str) -> None:
        config, engine = job.config, job.config.engine
        assert engine is not None
        self.job, self.prompt = job, engine.prompt
        dtype = dtype_of(config, device)
        folder = locate(config.model.name, config.model.revision, dtype.itemsize < 4, None, config.model.layout)
        self.pipeline = Pipeline.load(pipeline_kind(engine.pipeline), folder, device, dtype, engine.arguments)
        seeing = config.captions.model
        blip = None if seeing is None else Blip(seeing.name, revision=seeing.revision, device=device)
        self.captioner = Captioner(config.caption_otherwise, blip)

    def begin(self, partition: Partition) -> None:
        pass

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        captions = self.captioner([picture.pixels for picture in pictures], [picture.caption for picture in pictures])
        return [self._edited(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]

    def end(self) -> None:
        pass

    def _edited(self, picture: Picture, caption: str) -> Edited:
        made, faults = [], []
        for edit in self.job.config.edits.values():
            pixels, fault = picture.pixels, None
            try:
                seed = image_seed(self.job.config.seed, picture.id)
                pixels = self.pipeline.edit(picture.pixels, prompt(self.prompt, edit, caption), seed)
            except ImageError as error:
                fault = str(error)
            made.append(pixels if picture.mask is None else mixed(pixels, picture.pixels, picture.mask))
            faults.append(fault)
        if all(faults):
            return Edited(caption, None, faults[0])
        return Edited(caption, np.stack(made), faults=tuple(faults))


def prompt(written: str, edit: EditConfig, caption: str) -> str:
    """The prompt for a picture with this caption."""
    assert edit.source  # TranslateConfig has words where it has an engine
    assert edit.target
    return written.format(
        source=edit.source, target=edit.target, caption=caption, swapped=swapped(caption, edit.source, edit.target)
    )
