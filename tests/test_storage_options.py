"""A run on a storage that asks for a key is looked at from any machine that has the key in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from s3_server import s3_server
from small_run import pair, write_run

from p2pz_ray.cli import main
from p2pz_ray.collection import Store


def test_status_report_and_export_take_the_options_of_a_runs_storage_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.full((16, 16, 3), 90, np.uint8)
    write_run(tmp_path / "run", [[pair(f"cat-{i}", grey, grey + 1 + i) for i in range(3)]])
    with s3_server() as options:
        there = Store("s3://bucket/run", options)
        for file in (file for file in (tmp_path / "run").rglob("*") if file.is_file()):
            there.write(str(file.relative_to(tmp_path / "run")), file.read_bytes())
        keys = tmp_path / "keys.yaml"
        keys.write_text(yaml.safe_dump(options))
        given: list[Any] = ["--storage-options", str(keys)]
        assert main(["status", "s3://bucket/run", *given]) == 0
        assert "3 of 3 images (100%), 3 pairs ok" in capsys.readouterr().out
        monkeypatch.setenv("P2PZ_STORAGE_OPTIONS", str(keys))
        assert main(["report", "s3://bucket/run"]) == 0
        assert b"<html" in there.read("report/index.html")
        out = str(tmp_path / "out")
        assert main(["export", "s3://bucket/run", out, "--format", "parquet", "--duplicates", "0"]) == 0
        assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out" / "data").iterdir()) == 3
        assert main(["status", "s3://bucket/run", "--storage-options", str(tmp_path / "none.yaml")]) == 2
        assert "none.yaml" in capsys.readouterr().err
