"""What a stranger's data, a stranger on the network and a reader of the logs can't do."""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_job import tiny_settings
from transformers import AutoTokenizer, BlipForConditionalGeneration

from p2pz_ray import EditDirection
from p2pz_ray.cli import main
from p2pz_ray.config import TranslateConfig
from p2pz_ray.editing.model import DiffusionModel, TextEncoder
from p2pz_ray.errors import ConfigError
from p2pz_ray.language.checkpoint import load_pretrained
from p2pz_ray.translation.prepare import prepare

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("p2pz_ray/**/*.py"), *ROOT.glob("jobs/*.py")]

LISTENERS = """
import ray, psutil  # Ray brings it along
from p2pz_ray.config import TranslateConfig
from p2pz_ray.running.cluster import connected
config = {"input": {"uri": "i"}, "output": "o", "edits": {"e": {"source": "cat", "target": "dog"}}}
with connected(TranslateConfig.model_validate(config)):
    ray.get(ray.remote(lambda: 0).remote())
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in ours:
        for socket in process.net_connections("inet"):
            if socket.status == psutil.CONN_LISTEN:
                print("listens", socket.laddr.ip)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process may look at its children's sockets on Linux alone")
def test_a_run_on_this_machine_listens_where_no_other_machine_can_call() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run([sys.executable, "-c", LISTENERS], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    heard = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("listens ")]
    assert len(heard) > 5
    assert set(heard) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


class Bomb:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


def test_a_published_embedding_that_holds_code_is_refused_unrun(tmp_path: Path) -> None:
    mark, bomb, honest = tmp_path / "ran", tmp_path / "cat.pt", tmp_path / "dog.pt"
    torch.save(torch.zeros(1, 77, 8), honest)
    for write in (torch.save, lambda what, file: file.write_bytes(pickle.dumps(what))):
        write(Bomb(mark), bomb)
        with pytest.raises(ConfigError, match=r"cat\.pt"):
            EditDirection.from_embeddings(str(bomb), str(honest))
    assert not mark.exists()


def test_a_checkpoint_whose_weights_are_code_is_refused_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    torch.save(Bomb(mark), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"captions\.model"):
        load_pretrained(BlipForConditionalGeneration, str(tmp_path), None, "captions.model")
    assert not mark.exists()


def test_a_diffusion_model_whose_weights_are_code_is_refused_unrun(tmp_path: Path, tiny_model: Path) -> None:
    mark, model = tmp_path / "ran", tmp_path / "model"
    shutil.copytree(tiny_model, model)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        [weights] = (model / part).glob("*.safetensors")
        weights.unlink()
        torch.save(Bomb(mark), model / part / f"{name}.bin")
        with pytest.raises(ConfigError, match="safetensors"):
            (TextEncoder if part == "text_encoder" else DiffusionModel).load(model)
    assert not mark.exists()


def test_a_checkpoint_that_brings_code_along_is_refused_unrun(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(ConfigError, match=r"captions\.model"):
        load_pretrained(AutoTokenizer, str(tmp_path), None, "captions.model")
    assert not mark.exists()


def test_a_configuration_that_would_build_python_objects_is_refused_unrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, config = tmp_path / "ran", tmp_path / "job.yaml"
    attack = f"!!python/object/apply:os.system ['touch {mark}']"
    config.write_text(f"output: {attack}")
    assert main(["translate", str(config)]) == 2
    assert main(["translate", f"output={attack}"]) == 2
    assert "is not valid YAML" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_source_file_unpickles_or_evaluates_or_starts_a_process(file: Path) -> None:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not modules & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "subprocess", "pty"}
        if isinstance(node, ast.Call):
            called, options = ast.unparse(node.func), {option.arg: option.value for option in node.keywords}
            assert called not in ("eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load")
            assert not called.startswith(("os.exec", "os.spawn", "cloudpickle.", "ray.cloudpickle."))
            if called == "torch.load":
                assert ast.unparse(options["weights_only"]) == "True"
            for refused in ("trust_remote_code", "allow_pickle", "shell"):
                assert ast.unparse(options.get(refused, ast.Constant(False))) == "False"
        if isinstance(node, ast.Constant):
            assert node.value != "0.0.0.0"


def models(value: object) -> list[dict[str, object]]:
    """Every mapping of a configuration that names a checkpoint of the hub."""
    if not isinstance(value, dict):
        return []
    found = [inner for part in value.values() for inner in models(part)]
    named = [{"name": part} for key, part in value.items() if key in ("model", "text_model") and isinstance(part, str)]
    own = [value] if str(value.get("name", "")).count("/") == 1 else []
    return [*own, *found, *(each for each in named if "/" in str(each["name"]))]


def test_every_checkpoint_of_a_shipped_configuration_is_pinned_to_a_commit() -> None:
    pinned = 0
    for file in ROOT.glob("configs/**/*.yaml"):
        for model in models(yaml.safe_load(file.read_text())):
            assert re.fullmatch(r"[0-9a-f]{40}", str(model.get("revision"))), f"{file.name}: {model}"
            pinned += 1
    assert pinned


def test_replicas_are_told_the_commit_of_a_hubs_checkpoint_that_the_run_began_with(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, from the hub client's own cache."""
    commit, repository = "c" * 40, tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = TranslateConfig.model_validate(tiny_settings(tmp_path, tiny_model) | {"model": "someone/tiny"})
    prepared = prepare(config)
    assert prepared is not None
    model = prepared[0].config.model
    assert (model.name, model.revision) == ("someone/tiny", commit)


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "settings",
    [
        [f"input.storage_options={{key: {SECRET}}}", "input.uri=nope://bucket/cats"],
        [f"input.storage_options={{key: {SECRET}}}", "input.uri=memory://none"],
        [f"input.uri=ftp://cat:{SECRET}@127.0.0.1/cats"],
        [f"input.storage_options={SECRET}", "input.uri=memory://none"],
        [f"output_storage_options={{secret: {SECRET}}}", "output=nope://bucket/run", "input.uri=memory://none"],
    ],
)
def test_a_secret_of_the_storage_stands_in_no_message(settings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    edits = ["edits.e.source=cat", "edits.e.target=dog", "output=memory://run"]
    assert main(["translate", *edits, *settings]) == 2
    out, err = capsys.readouterr()
    assert "p2pz: " in err
    assert SECRET not in out + err
