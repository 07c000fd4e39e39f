"""From pairs to a student: the training of a GAN, on one worker or many.

The package is the job, too: `p2pz_ray.distill("distill.yaml")` trains, whether or not its modules are imported.
"""

import sys
from types import ModuleType
from typing import Any


class _Job(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from p2pz_ray.distill.job import distill

        return distill(*arguments, **options)


sys.modules[__name__].__class__ = _Job
