"""The shipped configurations of real checkpoints, run whole: the repositories that they name are laid out as the real
ones and of tiny widths, and stand on a hub on loopback.

`P2PZ_SHIPPED="sd15 sd21 sdxl sd-turbo"` are run by four replicas each; without it sd15 alone, the others in one
process.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import Hub
from shipped_run import CONFIGS, NAMES
from tiny_blip import save_tiny_blip
from tiny_clip import save_tiny_clip
from tiny_families import save_tiny_sd2, save_tiny_sdxl
from tiny_job import pairs_of

from p2pz_ray.mini.dataset import write_world

IMAGES = 4


def hub_of(folder: Path, tiny_model: Path) -> Hub:
    """Every repository that the configurations name, at the commits that they name; a tenth of its answers is none."""
    words = tiny_model / "tokenizer"
    turbo = Path(shutil.copytree(tiny_model, folder / "turbo"))
    file = turbo / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"timestep_spacing": "trailing"}))
    made = {
        "sd15": tiny_model,
        "sd21": save_tiny_sd2(folder / "sd21", words),
        "sdxl": save_tiny_sdxl(folder / "sdxl", words),
        "sd-turbo": turbo,
    }
    repositories, commits = {}, {}
    for name, checkpoint in made.items():
        config = yaml.safe_load((CONFIGS / name / "cat2dog.yaml").read_text())
        named = config["model"], config["captions"]["model"]
        for model, place in zip(named, (checkpoint, folder / "blip"), strict=True):
            repositories[model["name"]], commits[model["name"]] = place, model["revision"]
    save_tiny_blip(folder / "blip")
    clip = yaml.safe_load((CONFIGS / "sd15" / "evaluate-cat2dog.yaml").read_text())["metrics"]["clip"]["model"]
    repositories[clip["name"]], commits[clip["name"]] = save_tiny_clip(folder / "clip"), clip["revision"]
    return Hub(repositories, ill=10, commits=commits)


@pytest.mark.ray
def test_every_shipped_configuration_runs_whole_and_fetches_each_file_once(tmp_path: Path, tiny_model: Path) -> None:
    write_world(str(tmp_path / "cats"), IMAGES, seed=3)
    hub = hub_of(tmp_path, tiny_model)
    try:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        script = str(Path(__file__).with_name("shipped_run.py"))
        subprocess.run(
            [sys.executable, script, str(tmp_path), *os.environ.get("P2PZ_SHIPPED", "sd15").split()],
            env=os.environ | own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
            check=True,
        )
    finally:
        hub.close()
    for name in NAMES:
        rows = pairs_of(tmp_path / name)
        assert Counter(row["status"] for row in rows.values()) == {"ok": IMAGES}
        seen = pq.read_table(tmp_path / "cats", columns=["caption"])["caption"].to_pylist()
        assert not {row["caption"] for row in rows.values()} & set(seen)  # it is the captioner that wrote them
    assert set(hub.fetched.values()) == {1}
    assert hub.answers > 50
