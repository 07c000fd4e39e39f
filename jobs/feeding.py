"""How fast a replica feeds an engine that costs nothing, and what is left for one that does."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measured import ROUNDS, Row, config_of, spread

from p2pz_ray.collection.partition import Partition
from p2pz_ray.engines.edited import Edited, Picture
from p2pz_ray.engines.job import Job

STUDENT = Path(__file__).parents[1] / "configs" / "mini" / "distill-cat2dog.yaml"


class Free:
    """An engine that returns what it is given."""

    def begin(self, partition: Partition) -> None:
        return

    def edit(self, pictures: list[Picture]) -> list[Edited]:
        return [Edited("a cat", picture.pixels[None]) for picture in pictures]

    def end(self) -> None:
        return


def feeding(scratch: Path, images: int = 64) -> list[Row]:
    import numpy as np
    import torch
    import yaml

    from p2pz_ray.config.distill import DistillConfig
    from p2pz_ray.mini.world import render, sample_scene
    from p2pz_ray.picture.codec import encode
    from p2pz_ray.storage.store import Store
    from p2pz_ray.student.repertoire import Repertoire, Skill
    from p2pz_ray.student.student import build_generator, save_student
    from p2pz_ray.translation import translator

    torch.set_num_threads(1)
    load_engine, rng = translator.load_engine, np.random.default_rng(0)
    scenes = [sample_scene(rng, kind="cat") for _ in range(images)]
    rows: list[Row] = []
    more: dict[str, Any]

    def folder_of(form: str, size: int) -> Path:
        folder = scratch / f"{form}-{size}"
        folder.mkdir()
        for number, scene in enumerate(scenes):
            (folder / f"{number:04}.{form}").write_bytes(encode(render(scene, size)[0], form))
        return folder

    translator.load_engine = lambda job, device: Free()
    for form in ("jpeg", "png"):
        folder = folder_of(form, 512)
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(ROUNDS):
            for cpus, found in rates.items():
                output = scratch / f"{form}-{cpus}-{number}"
                more = {"output_format": {"format": form}, "replicas": {"cpus": cpus}}
                found.append(images / _through_a_replica(folder, output, 512, **more)[0])
        ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
        what = f"a replica with a free engine, {form.upper()} of 512 px"
        said = " and ".join(f"{statistics.median(found):.1f}" for found in rates.values())
        rows.append((f"{what}: images/s with 1 and 2 cpus", said, ""))
        rows.append(("… the ratio", spread(ratios), "at least 1.8"))
    translator.load_engine = load_engine
    folder, shares = folder_of("png", 64), []
    recipe = DistillConfig.model_validate(yaml.safe_load(STUDENT.read_text())).generator
    skills = Repertoire({"cat2dog": Skill()})
    save_student(Store(str(scratch)), "student", build_generator(recipe, 64), skills, {})  # of random weights
    more = {"student": str(scratch / "student"), "edits": {"cat2dog": {"source": "cat", "target": "dog"}}}
    for number in range(ROUNDS):
        took, model = _through_a_replica(folder, scratch / f"student-{number}", 64, **more)
        shares.append(model / took)
    rows.append(("the student's share of a replica's time, 64 px", spread(shares), ""))
    return rows


def _through_a_replica(folder: Path, output: Path, size: int, **more: Any) -> tuple[float, float]:
    """Seconds that a replica takes for a folder of images once it is loaded, and those of them that its model takes."""
    from p2pz_ray.collection.plan import make_plan
    from p2pz_ray.student import Student
    from p2pz_ray.translation.translator import Translator

    settings = config_of(folder, output, input={"uri": str(folder)}, **more)
    partitions = make_plan(str(folder), images_per_partition=16).partitions
    given = {} if settings.student is None else {"student": Student.from_pretrained(settings.student, "cpu").digest}
    replica = Translator(Job(settings, (size, size), "f", given))
    with ThreadPoolExecutor(settings.replicas.in_flight) as calls:
        began = time.perf_counter()
        found = list(calls.map(replica.translate, partitions))
        took = time.perf_counter() - began
    replica.hands.shutdown()
    return took, sum(manifest.seconds["model"] for manifest in found)
