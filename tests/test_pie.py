import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from p2pz_ray.errors import ConfigError
from p2pz_ray.evaluation.metrics.pixels import PixelDifference
from p2pz_ray.report.pie import decode_mask, main, read_mapping, table, write_collection


@pytest.fixture
def bench(tmp_path):
    """Two entries in the benchmark's form: a square of cells marked row by row, and edits beside it."""
    rng = np.random.default_rng(0)
    square = [part for row in range(100, 200) for part in (row * 512 + 50, 60)]
    mapping = {}
    for number, kind in (("000000000000", "0"), ("112000000001", "1")):
        path = f"{kind}_x/{number}.jpg"
        mapping[number] = {
            "image_path": path,
            "original_prompt": "a [cat] on a wall",
            "editing_prompt": "a [dog] on a wall",
            "editing_instruction": "make it a dog",
            "editing_type_id": kind,
            "blended_word": "cat dog",
            "mask": square,
        }
        for folder in ("bench/annotation_images", "edited"):
            file = tmp_path / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((512, 512, 3), 90, np.uint8)
            pixels[100:200, 50:110] = rng.integers(0, 255, 3) if folder == "edited" else 10
            if folder == "edited" and kind == "1":
                pixels[300:] += 51
            Image.fromarray(pixels).save(file.with_suffix(".png"))
            file.with_suffix(".png").rename(file)  # exact pixels, under the benchmark's names
    (tmp_path / "bench/mapping_file.json").write_text(json.dumps(mapping))
    return tmp_path


def test_a_mask_is_runs_of_cells_with_a_frame():
    mask = decode_mask([9, 2, 22, 3], side=8)
    expected = np.zeros((8, 8), bool)
    expected[[0, -1]] = expected[:, [0, -1]] = True
    expected[1, 1:3] = True
    expected[2, 6] = expected[3, 0] = True
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match="without a length"):
        decode_mask([1, 2, 3])


def test_the_benchmark_becomes_a_collection_with_masks_and_target_texts(bench):
    assert write_collection(bench / "bench", bench / "out") == 2
    [file] = (bench / "out").iterdir()
    rows = pq.read_table(file).to_pylist()
    assert [row["caption"] for row in rows] == ["a cat on a wall"] * 2
    assert [row["target_text"] for row in rows] == ["a dog on a wall"] * 2
    assert [row["kind"] for row in rows] == ["0", "1"]
    mask = np.asarray(Image.open(__import__("io").BytesIO(rows[0]["mask"]["bytes"])))[..., 0] > 0
    np.testing.assert_array_equal(mask, read_mapping(bench / "bench")[0].mask)
    assert mask[100:200, 50:110].all()


def test_the_table_has_the_benchmarks_units_and_looks_at_the_unedited_part_alone(bench):
    found = table(bench / "bench", bench / "edited", [PixelDifference()])
    assert list(found) == ["all", "0", "1"]
    assert found["0"]["MSE ×10⁴"] == 0
    assert found["0"]["SSIM ×10²"] == pytest.approx(100)
    changed = 0.04 * (212 * 512 - 512 - 2 * 211) / 512**2  # below row 300, without the frame, by 0.2
    assert found["1"]["MSE ×10⁴"] == pytest.approx(1e4 * changed, rel=1e-4)
    assert found["all"]["MSE ×10⁴"] == pytest.approx(0.5e4 * changed, rel=1e-4)


def test_what_is_missing_or_no_mapping_is_named(bench, capsys):
    next((bench / "edited/1_x").iterdir()).unlink()
    assert main(["table", str(bench / "bench"), str(bench / "edited")]) == 2
    assert "edited/1_x/112000000001.jpg" in capsys.readouterr().err
    (bench / "bench/mapping_file.json").write_text('{"7": {"image_path": "x"}}')
    with pytest.raises(ConfigError, match="entry 7"):
        read_mapping(bench / "bench")
    with pytest.raises(ConfigError, match=r"no .*mapping_file"):
        read_mapping(bench)
