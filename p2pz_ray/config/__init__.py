"""A job's configuration: its typed keys, each with its default, how it is read, and how a run records it.

    config = load("configs/mini/cat2dog.yaml", ["input.uri=photos", "seed=7"], TranslateConfig)

Every key that a file or the command line may set is a field in one of these modules. Unknown keys are refused.
"""

from p2pz_ray.config.direction import DirectionConfig
from p2pz_ray.config.file import load, validated
from p2pz_ray.config.record import difference, fingerprint, record
from p2pz_ray.config.translate import TranslateConfig

__all__ = ["DirectionConfig", "TranslateConfig", "difference", "fingerprint", "load", "record", "validated"]
