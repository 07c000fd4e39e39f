"""The provenance recorded in edited pictures, and its signature."""

import os

from p2pz_ray.config import TranslateConfig
from p2pz_ray.picture.credential import Signer
from p2pz_ray.picture.mark import Provenance
from p2pz_ray.version import __version__


def signer(config: TranslateConfig) -> Signer | None:
    """The signer of a run's edited pictures, or None. Raises ConfigError if it can't sign."""
    given = config.output_format.c2pa
    return None if given is None else Signer(given.certificates, given.key, given.algorithm, given.timestamps)


def provenance(config: TranslateConfig, edit: str) -> Provenance:
    """The provenance of an edit's pictures."""
    name = config.student or config.model.name
    shown = os.path.basename(name.rstrip("/")) if config.student or os.path.isabs(name) else name
    words = config.edits[edit]
    said = f"{words.source} → {words.target}" if words.source and words.target else None
    if config.engine is not None:
        shown = f"{config.engine.pipeline} of {shown}"
    return Provenance(f"the student {shown}" if config.student else shown, __version__, edit, said)
