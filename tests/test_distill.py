"""Training a student: exact when resumed, the same with more workers, and not lost to a kill, a full disk or a NaN."""

import contextlib
import copy
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from small_run import examples, write_truth

from p2pz_ray.cli import main
from p2pz_ray.commit.folder import RunFolder
from p2pz_ray.config.distill import DistillConfig, TrainingConfig
from p2pz_ray.distill import loop
from p2pz_ray.distill.checkpoint import Checkpoints
from p2pz_ray.distill.peers import Peers
from p2pz_ray.distill.run import distill
from p2pz_ray.distill.shards import Shards, prepare_pairs
from p2pz_ray.distill.trainer import Trainer, schedule
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.picture.codec import DecodePolicy, decode, encode
from p2pz_ray.storage.failure import StorageError
from p2pz_ray.storage.store import Store
from p2pz_ray.student import Student
from p2pz_ray.student.repertoire import Repertoire


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty cats, each with the dog that it would be."""
    file = tmp_path_factory.mktemp("world") / "scenes.parquet"
    write_truth(file, examples(40))
    return file


def settings(table: Path, out: Path | str, steps: int = 8, **changes: Any) -> dict[str, Any]:
    """A training of seconds: 16 px, a few thousand weights, everything drawn by lot that there is."""
    return {
        "pairs": {"tables": str(table), "columns": {"edited": "truth_cat2dog"}, "test": 0.2},
        "image": {"size": 16},
        "generator": {"base": 128, "max": 8, "code": 16, "z": 4, "mapping_layers": 2, "noise": True},
        "discriminator": {"base": 128, "max": 8},
        "losses": {"perceptual_model": None, "r1_every": 3, "l1": 5.0},
        "augmentation": {"pairs": {"flip": 0.5, "shift": 0.1, "colour": 0.1, "noise": 0.01}},
        "training": {"steps": steps, "batch": 8, "checkpoint_every": 4, "log_every": 2, "shuffle_shards": 1},
        "output": str(out),
    } | changes


def config(table: Path, out: Path | str, steps: int = 8, **changes: Any) -> DistillConfig:
    return DistillConfig.model_validate(settings(table, out, steps, **changes))


def state(out: Path | str, step: int) -> dict[str, Any]:
    return Checkpoints(RunFolder(str(out)), 1).load(step, "cpu")


def differences(a: Any, b: Any, path: str = "") -> dict[str, float]:
    """Where two states differ, and by how much."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return {k: v for key in a for k, v in differences(a[key], b[key], f"{path}/{key}").items()}
    if isinstance(a, list):
        return differences(dict(enumerate(a)), dict(enumerate(b)), path)
    if isinstance(a, torch.Tensor):
        return {} if torch.equal(a, b) else {path: float((a - b).abs().max())}
    return {} if a == b else {path: abs(a - b)}


def test_a_training_in_two_halves_is_the_undisturbed_one_bit_for_bit(table: Path, tmp_path: Path) -> None:
    distill(config(table, tmp_path / "whole", steps=8))
    distill(config(table, tmp_path / "halves", steps=4))
    assert (tmp_path / "halves" / "checkpoints" / "step-00000004.pt").exists()
    distill(config(table, tmp_path / "halves", steps=8))
    one, other = state(tmp_path / "whole", 8), state(tmp_path / "halves", 8)
    assert differences(one, other) == {}
    assert {"generator", "average", "discriminator", "generator_optimizer", "discriminator_optimizer"} <= one.keys()
    assert differences(one["generator"], state(tmp_path / "whole", 4)["generator"]) != {}  # it did learn meanwhile
    distill(config(table, tmp_path / "seed", steps=4, seed=1))
    assert differences(state(tmp_path / "seed", 4)["generator"], state(tmp_path / "halves", 4)["generator"]) != {}


def test_parts_of_a_batch_add_up_to_the_whole_batch(table: Path, tmp_path: Path) -> None:
    found = []
    for micro in (None, 5):  # of a group of four; the last part is smaller than the others
        wanted = settings(table, tmp_path / str(micro), generator={"base": 64, "max": 8, "code": 16, "noise": True})
        wanted["training"] |= {"batch": 12, "micro_batch": micro}
        made = DistillConfig.model_validate(wanted)
        folder = RunFolder(made.output)
        trainer = Trainer(made, 16, Shards(folder, prepare_pairs(made, folder), "train", 1), Peers())
        seen: list[int] = []
        trainer.generator.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        losses = trainer.advance()  # with the penalty
        found.append((losses, trainer.state(), seen))
    (losses, whole, rows), (summed, parts, few) = found
    assert (rows, few) == ([12], [4, 4, 4])
    assert losses.keys() == summed.keys() >= {"l1", "generator", "discriminator", "r1"}
    assert summed == pytest.approx(losses, rel=1e-4)
    for name in ("generator_optimizer", "discriminator_optimizer"):  # Adam's first moments are the gradients
        for one, other in zip(whole[name]["state"].values(), parts[name]["state"].values(), strict=True):
            scale = float(one["exp_avg"].abs().max())
            torch.testing.assert_close(other["exp_avg"], one["exp_avg"], rtol=1e-3, atol=1e-5 * max(scale, 1.0))


def test_noise_is_each_rows_own_and_never_on_what_is_to_be_made(table: Path, tmp_path: Path) -> None:
    noisy = {"pairs": {"noise": 0.5, "flip": 0}, "discriminator": {"shift": 0.0}}
    generator = {"base": 64, "max": 8, "code": 16, "noise": True}

    def shown(out: str, peers: Peers, augmentation: dict[str, Any]) -> list[Any]:
        wanted = config(table, tmp_path / out, generator=generator, augmentation=augmentation)
        folder = RunFolder(wanted.output)
        return Trainer(wanted, 16, Shards(folder, prepare_pairs(wanted, folder), "train", 1), peers)._micro_batches()

    [whole] = shown("a", Peers(), noisy)
    [plain] = shown("a", Peers(), {"pairs": {"flip": 0}, "discriminator": {"shift": 0.0}})
    assert torch.equal(whole.y, plain.y)
    assert 0.4 < float((whole.x - plain.x).std()) < 0.6
    peer = Peers(1, 2)
    peer.broadcast = lambda module: None  # type: ignore[method-assign]
    [half] = shown("a", peer, noisy)
    assert torch.equal(half.x, whole.x[4:])
    assert all(
        torch.equal(mine, all_rows[4:])
        for mine, all_rows in zip(half.network_draws.noise, whole.network_draws.noise, strict=True)
    )


def test_steps_that_bend_the_rate_can_not_be_changed_and_others_are_said(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def wanted(out: str, steps: int, cooldown: float) -> DistillConfig:
        given = settings(table, tmp_path / out, steps)
        given["training"] |= {"cooldown": cooldown}
        return DistillConfig.model_validate(given)

    distill(wanted("bent", 2, 0.5))
    with pytest.raises(ConfigError, match=r"training\.steps was 2 and is 4"):
        distill(wanted("bent", 4, 0.5))
    distill(wanted("level", 2, 0.0))
    distill(wanted("level", 4, 0.0))
    assert "The training was begun for 2 steps and now goes on to 4." in capsys.readouterr().out


def test_a_score_that_is_no_number_is_never_the_best(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([float("nan"), 0.4, float("nan")])
    monkeypatch.setattr(loop, "scores", lambda *_: {"error": next(errors)})
    assert distill(config(table, tmp_path / "out", steps=12)).best == {"step": 8, "error": 0.4}
    monkeypatch.setattr(loop, "scores", lambda *_: {"error": float("nan")})
    with pytest.raises(P2PZError, match="No held-out score was finite"):
        distill(config(table, tmp_path / "none", steps=4))


@pytest.mark.train
def test_one_student_learns_two_edits_and_how_strong_each_is(tmp_path: Path) -> None:
    """Darker and redder, by as much as is asked for: a rule that no student of one edit could know."""
    rows: list[dict[str, Any]] = []
    for one in examples(40):
        source = one.picture()
        for edit, change in {"darker": [0.4, 0.4, 0.4], "redder": [1.0, 0.4, 0.4]}.items():
            for strength in (0.5, 1.0):
                made = source * (1 - strength * (1 - np.array(change)))
                rows.append({"id": one.id, "edit": edit, "strength": strength, "image": encode(source)})
                rows[-1]["edited_image"] = encode(made.astype(np.uint8))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    wanted = settings(tmp_path / "pairs.parquet", tmp_path / "out", steps=160)
    wanted["pairs"] = {"tables": str(tmp_path / "pairs.parquet"), "test": 0.2}
    wanted["generator"] = {"base": 256, "max": 16, "code": 16, "style": 8, "residual": True, "dropout": 0.0}
    wanted["losses"] = {"perceptual_model": None, "adversarial": 0}
    wanted["training"] |= {"lr": 0.02, "checkpoint_every": 160, "average_half_life": 200, "log_every": 80}
    assert distill(DistillConfig.model_validate(wanted)).best["error"] < 0.01
    student = Student.from_pretrained(str(tmp_path / "out" / "student"))
    new = np.stack([decode(encode(one.picture()), DecodePolicy((16, 16))) for one in examples(8, seed=9)])

    def brightness(**asked: Any) -> np.ndarray:
        return student(new, **asked).mean((0, 1, 2)) / new.mean((0, 1, 2))

    dark, half, red = (brightness(edit=e, strength=s) for e, s in (("darker", 1), ("darker", 0.5), ("redder", 1)))
    assert dark[0] < 0.6
    assert 0.6 < half[0] < 0.9
    assert red[0] > 0.85
    assert red[1] < 0.6


def test_a_training_leaves_a_student_a_log_and_a_sheet_and_then_has_nothing_to_do(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    made = distill(config(table, tmp_path / "out"))
    assert made.fresh
    assert (tmp_path / "out" / "student" / "model.safetensors").exists()
    lines = [
        json.loads(line)
        for file in sorted((tmp_path / "out" / "log").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"l1", "generator", "discriminator"} <= lines[0].keys()
    held_out = json.loads((tmp_path / "out" / "pairs" / "index.json").read_text())["test"][0]["rows"]
    with Image.open(tmp_path / "out" / "sheets" / "step-00000008.png") as sheet:
        assert sheet.size == (16 * min(8, held_out), 16 * 3)
    said = capsys.readouterr().out
    assert "step 8 of 8 (100%)" in said
    assert "images/s" in said
    again = distill(config(table, tmp_path / "out"))
    assert not again.fresh
    assert again.best == made.best
    assert "nothing to do" in str(again)


def test_the_student_kept_is_the_best_on_held_out_pairs(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([0.5, 0.2, 0.3])
    monkeypatch.setattr(loop, "scores", lambda *_: {"error": next(errors)})
    made = distill(config(table, tmp_path / "out", steps=12))
    assert made.best == {"step": 8, "error": 0.2}
    card = (tmp_path / "out" / "student" / "README.md").read_text()
    assert '"step": 8' in card


def test_the_best_may_be_told_by_a_perceptual_distance_that_is_not_trained_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("stlpips_pytorch")
    losses = {"perceptual": 0, "perceptual_model": "stlpips-alex"}
    found = iter([{"error": 0.2, "perceptual": 0.5}, {"error": 0.3, "perceptual": 0.4}])
    monkeypatch.setattr(loop, "scores", lambda trainer, *_: next(found) if trainer.perceptual is not None else {})
    wanted = settings(table, tmp_path / "out", losses=losses)
    wanted["training"] |= {"metric": "perceptual"}
    assert distill(DistillConfig.model_validate(wanted)).best == {"step": 8, "error": 0.3, "perceptual": 0.4}
    assert "perceptual" not in (tmp_path / "out/log/step-00000008.jsonl").read_text()
    with pytest.raises(ValueError, match=r"losses\.perceptual_model"):
        config(table, tmp_path / "none", losses=losses | {"perceptual_model": None}, training={"metric": "perceptual"})


def test_held_out_scores_are_what_they_say(table: Path, tmp_path: Path) -> None:
    wanted = config(table, tmp_path / "out", generator={"base": 64, "max": 8, "code": 16, "residual": True})
    folder = RunFolder(wanted.output)
    index = prepare_pairs(wanted, folder)
    test = Shards(folder, index, "test", 1)
    trainer = Trainer(wanted, 16, Shards(folder, index, "train", 1), Peers())
    found = loop.scores(trainer, test, 100)
    x, y, _ = test.read(range(len(test)))
    assert found["identity_error"] == pytest.approx(float(((x - y) / 2).square().mean()), rel=1e-5)
    assert found["error"] == pytest.approx(found["identity_error"])  # an untrained residual student is the identity


@pytest.mark.train
def test_the_student_learns_a_rule_that_the_pairs_show_and_keeps_to_it_on_held_out_ones(tmp_path: Path) -> None:
    rows = [
        {"id": one.id, "image": encode(one.picture()), "edited_image": encode(255 - one.picture())}
        for one in examples(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    wanted = settings(tmp_path / "pairs.parquet", tmp_path / "out", steps=200)
    wanted["pairs"] = {"tables": str(tmp_path / "pairs.parquet"), "test": 0.2}
    wanted["generator"] = {"base": 512, "max": 16, "code": 32}
    wanted["losses"] = {"perceptual_model": None, "adversarial": 0.1}
    wanted["training"] |= {"lr": 0.01, "checkpoint_every": 200, "average_half_life": 200, "log_every": 100}
    best = distill(DistillConfig.model_validate(wanted)).best
    assert best["error"] < 0.1 * best["identity_error"]


@pytest.mark.parametrize("architecture", ["comod", "mobile"])
def test_either_architecture_trains_with_the_perceptual_loss(table: Path, tmp_path: Path, architecture: str) -> None:
    pytest.importorskip("stlpips_pytorch")
    wanted = config(
        table,
        tmp_path / "out",
        steps=2,
        image={"size": 32},
        generator={"architecture": architecture, "base": 128, "max": 8, "code": 16, "blocks": 1},
        losses={"perceptual_model": "stlpips-alex"},
    )
    best = distill(wanted).best
    assert best["perceptual"] > 0
    assert best["identity_perceptual"] > 0


def test_a_perceptual_loss_of_every_second_step_counts_in_every_second_step(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("stlpips_pytorch")
    losses = {"perceptual_model": "stlpips-alex", "perceptual_every": 2, "adversarial": 0.0}
    wanted = config(table, tmp_path / "out", image={"size": 32}, losses=losses)
    folder = RunFolder(wanted.output)
    trainer = Trainer(wanted, 32, Shards(folder, prepare_pairs(wanted, folder), "train", 1), Peers())
    assert ["perceptual" in trainer.advance() for _ in range(4)] == [True, False, True, False]


def test_the_opponent_comes_into_play_when_it_is_told_to(table: Path, tmp_path: Path) -> None:
    wanted = config(table, tmp_path / "out", losses={"perceptual_model": None, "adversarial_after": 2})
    folder = RunFolder(wanted.output)
    trainer = Trainer(wanted, 16, Shards(folder, prepare_pairs(wanted, folder), "train", 1), Peers())
    untrained = copy.deepcopy(trainer.discriminator.state_dict())
    assert [set(trainer.advance()) & {"generator", "discriminator"} for _ in range(2)] == [set(), set()]
    assert not differences(trainer.discriminator.state_dict(), untrained)
    assert {"generator", "discriminator"} <= set(trainer.advance())
    assert differences(trainer.discriminator.state_dict(), untrained)


def test_the_rate_rises_stays_and_falls_to_zero(table: Path, tmp_path: Path) -> None:
    assert [schedule(TrainingConfig(steps=4), step) for step in range(4)] == [1, 1, 1, 1]
    shaped = TrainingConfig(steps=10, warmup=2, cooldown=0.5)
    assert [schedule(shaped, step) for step in range(10)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    training = {"steps": 4, "batch": 8, "lr": 0.01, "cooldown": 1.0, "momentum": 0.9}
    wanted = config(table, tmp_path / "out", training=training, discriminator={"base": 64, "max": 8, "lr": 0.1})
    folder = RunFolder(wanted.output)
    trainer = Trainer(wanted, 16, Shards(folder, prepare_pairs(wanted, folder), "train", 1), Peers())
    trainer.advance()
    trainer.advance()
    rates = {name: one.param_groups[0]["lr"] for name, one in trainer.optimizers.items()}
    assert rates == pytest.approx({"generator": 0.0075, "discriminator": 0.075 * 3 / 4})


def test_without_held_out_pairs_the_scores_are_of_the_training_pairs_and_say_so(table: Path, tmp_path: Path) -> None:
    wanted = settings(table, tmp_path / "out", steps=2)
    wanted["pairs"]["test"] = 0.0
    made = distill(DistillConfig.model_validate(wanted))
    assert made.held_out == 0
    assert made.best["error"] > 0
    assert "On the pairs it learned from, from the teacher:\n  error: student" in str(made)
    assert "On held-out pairs" in str(distill(config(table, tmp_path / "other", steps=2)))


def test_a_training_lives_at_any_uri(table: Path) -> None:
    made = distill(config(table, "memory://distill/out", steps=4))
    assert made.best["step"] == 4
    assert RunFolder("memory://distill/out").store.list("checkpoints") == ["step-00000004.pt"]
    assert distill(config(table, "memory://distill/out", steps=6)).steps == 6


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_no_number_stops_and_names_the_last_good_checkpoint(table: Path, tmp_path: Path) -> None:
    distill(config(table, tmp_path / "out", steps=4))
    good = state(tmp_path / "out", 4)
    broken = dict(good)
    broken["generator"] = {**good["generator"], "dense.weight": good["generator"]["dense.weight"] * float("inf")}
    folder = RunFolder(str(tmp_path / "out"))
    trained = config(table, tmp_path / "out", steps=8)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:  # as if the step after the checkpoint had blown up
        patch.setattr(Checkpoints, "load", lambda *_: broken)
        with pytest.raises(P2PZError) as caught:
            distill(trained)
    said = str(caught.value)
    assert "The loss became infinite or NaN in step 5 (" in said
    assert f"the last good checkpoint is {tmp_path}/out/checkpoints/step-00000004.pt" in said
    assert Checkpoints(folder, 1).steps() == [4]
    with pytest.raises(P2PZError, match=r"there is no checkpoint yet"):
        distill(config(table, tmp_path / "b", training=trained.training.model_dump() | {"lr": 1e30}))


@pytest.mark.faults
def test_a_full_disk_is_named_and_the_same_command_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill(config(table, tmp_path / "whole"))
    write = Store.write

    def full(store: Store, path: str, data: bytes) -> None:
        if path.endswith("step-00000008.pt"):
            raise StorageError(f"{store.name(path)} can't be written: No space left on device.")
        write(store, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        with pytest.raises(P2PZError, match=r"step-00000008\.pt can't be written: No space left on device"):
            distill(config(table, tmp_path / "out"))
    distill(config(table, tmp_path / "out"))
    assert differences(state(tmp_path / "whole", 8), state(tmp_path / "out", 8)) == {}


def test_another_configuration_in_the_same_output_is_refused(table: Path, tmp_path: Path) -> None:
    distill(config(table, tmp_path / "out", steps=2))
    with pytest.raises(ConfigError, match=r"another configuration: seed was 0 and is 1"):
        distill(config(table, tmp_path / "out", steps=2, seed=1))
    with pytest.raises(ConfigError, match=r"training\.batch was 8 and is 4"):
        distill(config(table, tmp_path / "out", training={"batch": 4, "checkpoint_every": 4, "shuffle_shards": 1}))


def test_a_checkpoint_that_is_none_or_another_trainings_is_named(table: Path, tmp_path: Path) -> None:
    distill(config(table, tmp_path / "out", steps=4))
    distill(config(table, tmp_path / "other", steps=4, generator={"base": 64, "max": 4, "code": 8}))
    file = tmp_path / "out" / "checkpoints" / "step-00000004.pt"
    file.write_bytes((tmp_path / "other" / "checkpoints" / file.name).read_bytes())
    with pytest.raises(P2PZError, match=r"step-00000004\.pt is the checkpoint of another training \("):
        distill(config(table, tmp_path / "out", steps=8))
    file.write_bytes(b"no checkpoint")
    with pytest.raises(P2PZError, match=r"step-00000004\.pt is not a readable checkpoint"):
        distill(config(table, tmp_path / "out", steps=8))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": {"size": [32, 64]}}, "a student needs a square whose side is a power of two"),
        ({"workers": {"count": 3}}, "3 workers for a batch of 8"),
        ({"losses": {"adversarial": 0.0, "l1": 0.0, "perceptual": 0.0}}, "has no loss"),
        ({"pairs": {}}, "needs runs"),
        ({"training": {"step": 3}}, "did you mean training.steps"),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(
    table: Path, tmp_path: Path, changes: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture
) -> None:
    import yaml

    file = tmp_path / "distill.yaml"
    file.write_text(yaml.safe_dump(settings(table, tmp_path / "out") | changes))
    assert main(["distill", str(file)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------- Ray Train


def test_the_rows_of_a_batch_are_shared_out_in_whole_groups_and_none_is_lost() -> None:
    for world in (1, 2, 3, 4):
        parts = [Peers(rank, world).rows(16, 4) for rank in range(world)]
        assert [i for part in parts for i in range(16)[part]] == list(range(16))
        assert all(part.start % 4 == part.stop % 4 == 0 for part in parts)


@pytest.fixture(scope="module")
def two_workers(table: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed training of two workers, and what the driver said of it."""
    out = tmp_path_factory.mktemp("two") / "out"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        distill(config(table, out, workers={"count": 2}))
    return out, said.getvalue()


@pytest.mark.slow
def test_two_workers_are_one_worker_with_the_doubled_batch(
    table: Path, tmp_path: Path, two_workers: tuple[Path, str]
) -> None:
    distill(config(table, tmp_path / "one", steps=4))
    one, two = state(tmp_path / "one", 4), state(two_workers[0], 4)
    start = Trainer(config(table, tmp_path / "b"), 16, _Nothing(), Peers()).state()  # type: ignore[arg-type]
    for part in ("generator", "average", "discriminator"):
        found = differences(one[part], two[part])
        # Its gradient is the difference of two sums that are nearly equal, and Adam divides it by its own size.
        assert found.pop("/logit.bias", 0.0) < 1e-3
        assert max(found.values(), default=0.0) < 1e-5, found
        assert max(differences(one[part], start[part]).values()) > 1e-3  # what was trained is far more than that
    assert "step 8 of 8 (100%)" in two_workers[1]  # the workers' progress reaches the driver


class _Nothing:
    rows, edits, repertoire = (1,), ("",), Repertoire()


@pytest.mark.slow
@pytest.mark.faults
def test_a_training_recovers_from_a_killed_worker_and_ends_as_an_undisturbed_one(
    table: Path, tmp_path: Path, two_workers: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = str(tmp_path / "killed")
    from p2pz_ray.distill import workers

    work = workers._work

    def deadly(config: DistillConfig, console: Any, threads: int) -> None:
        advance = Trainer.advance

        def die_once(trainer: Trainer) -> dict[str, float]:
            if trainer.step == 6 and trainer.peers.rank == 1 and not os.path.exists(marker):
                open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return advance(trainer)

        Trainer.advance = die_once  # type: ignore[method-assign]
        work(config, console, threads)

    monkeypatch.setattr(workers, "_work", deadly)
    distill(config(table, tmp_path / "out", workers={"count": 2}))
    assert os.path.exists(marker)
    assert differences(state(two_workers[0], 8), state(tmp_path / "out", 8)) == {}


@pytest.mark.faults
def test_a_killed_driver_s_training_goes_on_to_the_undisturbed_one_bit_for_bit(table: Path, tmp_path: Path) -> None:
    steps, every = 60, {"training": {"steps": 60, "batch": 8, "checkpoint_every": 4, "shuffle_shards": 1}}
    distill(config(table, tmp_path / "whole", **every))
    job, out = tmp_path / "job.yaml", tmp_path / "out"
    job.write_text(yaml.safe_dump(settings(table, out, **every)))
    command, threads = [sys.executable, "-m", "p2pz_ray.cli", "distill", str(job)], str(torch.get_num_threads())
    with (tmp_path / "log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        while not (out / "checkpoints" / "step-00000008.pt").exists():
            assert driver.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    assert Checkpoints(RunFolder(str(out)), 1).steps()[-1] < steps
    distill(config(table, out, **every))
    assert differences(state(tmp_path / "whole", steps), state(out, steps)) == {}


@pytest.mark.slow
def test_what_stops_every_worker_is_said_by_the_driver_and_not_tried_again(
    table: Path, tmp_path: Path, local_ray: None
) -> None:
    wanted = settings(table, tmp_path / "out", workers={"count": 1})
    wanted["training"] |= {"lr": 1e30}
    with pytest.raises(P2PZError, match="The loss became infinite or NaN in step"):
        distill(DistillConfig.model_validate(wanted))
