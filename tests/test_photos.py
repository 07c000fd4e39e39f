"""Real photographs of many sizes run through the whole job with the embedded miniature."""

from pathlib import Path

import pytest
from tiny_job import pairs_of

from p2pz_ray.config import TranslateConfig, load
from p2pz_ray.translation.run import translate

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT.parent / "shared" / "data" / "photos"


@pytest.mark.skipif(not PHOTOS.exists(), reason="no photographs beside this checkout")
def test_every_photograph_becomes_one_ok_row(tmp_path: Path, local_ray: None) -> None:
    settings = [f"input.uri={PHOTOS}", f"output={tmp_path / 'run'}", "inversion.steps=3"]
    summary = translate(load(str(ROOT / "configs" / "mini" / "cat2dog.yaml"), settings, TranslateConfig))
    pairs = pairs_of(tmp_path / "run")
    assert {id for id, _ in pairs} == {file.relative_to(PHOTOS).as_posix() for file in PHOTOS.rglob("*.jpg")}
    assert {row["status"] for row in pairs.values()} == {"ok"}
    assert summary.failed == 0
    assert {row["caption"] for row in pairs.values()} == {"a photo of a cat"}
