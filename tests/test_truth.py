import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import Example, camouflaged, examples, moved, write_truth

from p2pz_ray.errors import ConfigError, ImageError
from p2pz_ray.evaluation.metrics.truth import PairError, Truth, TruthSums, psnr
from p2pz_ray.picture.codec import DecodePolicy, decode, encode


@pytest.fixture(scope="module")
def scenes() -> list[Example]:
    return examples(4)


@pytest.fixture(scope="module")
def truth(scenes, tmp_path_factory) -> Truth:
    path = tmp_path_factory.mktemp("truth") / "world.parquet"
    write_truth(path, scenes)
    return Truth(str(path))


def error_of(truth: Truth, example: Example, edited: np.ndarray) -> PairError:
    found = truth.error(example.id, "cat2dog", encode(example.picture()), encode(edited))
    assert found is not None
    return found


def test_the_truth_itself_has_no_error(truth, scenes):
    for example in scenes:
        found = error_of(truth, example, example.picture("dog"))
        assert (found.edited, found.edited_background) == (0, 0)
        assert math.isinf(psnr(found.edited))


def test_an_error_of_known_size_is_measured_exactly(truth, scenes):
    for example in scenes:
        found = error_of(truth, example, moved(example.picture("dog"), 10))
        assert found.edited == pytest.approx((10 / 255) ** 2, rel=1e-5)
        assert found.edited_background == pytest.approx((10 / 255) ** 2, rel=1e-5)
        assert psnr(found.edited) == pytest.approx(28.1308, abs=1e-3)


def test_the_source_left_as_it_is_errs_only_where_the_object_is(truth, scenes):
    for example in scenes:
        found = error_of(truth, example, example.picture("dog"))
        cat, dog = example.picture().astype(float), example.picture("dog").astype(float)
        assert found.copy == pytest.approx(np.mean((cat - dog) ** 2) / 255**2, rel=1e-5)
        assert found.copy > 0
        assert found.copy_background == 0


def test_the_background_is_all_that_lies_outside_both_masks(truth, scenes):
    for example in scenes:
        both = example.mask("cat") | example.mask("dog")
        assert (example.mask("cat") != example.mask("dog")).any()
        right = example.picture("dog")
        inside = error_of(truth, example, np.where(both[..., None], moved(right, 60), right))
        assert inside.edited > 0
        assert inside.edited_background == 0
        outside = error_of(truth, example, np.where(both[..., None], right, moved(right, 60)))
        assert outside.edited_background == pytest.approx((60 / 255) ** 2, rel=1e-5)


def test_the_configured_target_decides_the_truths_mask_whatever_the_edit_is_called(tmp_path):
    example, hidden = camouflaged()
    write_truth(tmp_path / "world.parquet", [example])
    table = pq.read_table(tmp_path / "world.parquet").rename_columns({"truth_cat2dog": "truth_puppies"})
    pq.write_table(table, tmp_path / "world.parquet")
    right = example.picture("dog")
    pictures = encode(example.picture()), encode(np.where(hidden[..., None], moved(right, 60), right))
    named = Truth(str(tmp_path / "world.parquet"), targets={"puppies": "dog"})
    assert named.error(example.id, "puppies", *pictures).edited_background == 0
    unnamed = Truth(str(tmp_path / "world.parquet"))
    assert unnamed.error(example.id, "puppies", *pictures).edited_background > 0


def test_without_a_scene_the_background_leaves_out_what_the_truth_changed(scenes, tmp_path):
    pq.write_table(pq.read_table(_written(tmp_path, scenes)).drop_columns(["scene"]), tmp_path / "world.parquet")
    truth, example = Truth(str(tmp_path / "world.parquet")), scenes[0]
    cat, dog = example.picture(), example.picture("dog")
    touched = example.mask("cat") | (cat != dog).any(axis=2)
    found = error_of(truth, example, np.where(touched[..., None], moved(dog, 60), dog))
    assert found.edited > 0
    assert found.edited_background == 0
    assert error_of(truth, example, moved(dog, 60)).edited_background > 0


def test_without_a_mask_only_the_whole_picture_is_compared(scenes, tmp_path):
    write_truth(tmp_path / "world.parquet", scenes, mask=False)
    found = error_of(Truth(str(tmp_path / "world.parquet")), scenes[0], scenes[0].picture("dog"))
    assert found.edited == 0
    assert found.edited_background is None


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(32, 32), (96, 64)])
def test_truth_is_fitted_to_the_size_the_run_worked_in(scenes, size, fit, tmp_path):
    truth = Truth(str(_written(tmp_path, scenes)), fit=fit)
    right = decode(encode(scenes[0].picture("dog")), DecodePolicy(size, fit))
    assert error_of(truth, scenes[0], right).edited == 0
    assert error_of(truth, scenes[0], moved(right, 10)).edited == pytest.approx((10 / 255) ** 2, rel=1e-5)


def test_truths_are_found_in_every_file_and_row_group_of_a_folder(tmp_path):
    scenes = examples(16)
    for part in range(2):
        path = tmp_path / f"part-{part}.parquet"
        write_truth(path, scenes[part::2])
        pq.write_table(pq.read_table(path), path, row_group_size=1)
    for uri in (str(tmp_path), str(tmp_path / "*.parquet")):
        truth = Truth(uri)
        assert truth.edits == ("cat2dog",)
        for example in [*scenes, *scenes]:  # the second time some have left the memory
            assert truth.picture(example.id, "cat2dog") == encode(example.picture("dog"))


def test_an_id_or_edit_without_truth_gives_none(truth, scenes):
    picture = encode(scenes[0].picture())
    assert truth.error("stranger", "cat2dog", picture, picture) is None
    assert truth.error(scenes[0].id, "cat2zebra", picture, picture) is None


def test_a_broken_picture_is_an_image_error_that_names_the_pair(truth, scenes):
    whole = encode(scenes[0].picture())
    for source, edited in ((whole, whole[:60]), (whole[:60], whole), (whole, b"")):
        with pytest.raises(ImageError, match=r"scene-000 \(cat2dog\)"):
            truth.error("scene-000", "cat2dog", source, edited)


def test_a_collection_without_truth_is_refused_naming_its_columns(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere"):
        Truth(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no Parquet file"):
        Truth(str(tmp_path))
    (tmp_path / "plain.parquet").write_bytes(b"not Parquet")
    with pytest.raises(ConfigError, match=r"plain\.parquet is not a readable Parquet file"):
        Truth(str(tmp_path))
    pq.write_table(pa.table({"id": ["a"], "picture": ["b"]}), tmp_path / "plain.parquet")
    with pytest.raises(ConfigError, match=r"plain\.parquet .* id, picture"):
        Truth(str(tmp_path))


def test_sums_have_the_mean_of_all_pairs_and_count_the_closer_ones():
    sums = TruthSums()
    for error in (PairError(0.1, 0.3, 0.02, 0.0), PairError(0.3, 0.2), PairError(0.2, 0.2, 0.04, 0.02)):
        sums.add(error)
    assert (sums.pairs, sums.closer) == (3, 1)
    assert sums.mean == PairError(*(pytest.approx(x) for x in (0.2, 0.7 / 3, 0.03, 0.01)))
    alone = TruthSums()
    alone.add(PairError(0.3, 0.2))
    assert alone.mean == PairError(0.3, 0.2)


def _written(folder, scenes):
    write_truth(folder / "world.parquet", scenes)
    return folder / "world.parquet"
