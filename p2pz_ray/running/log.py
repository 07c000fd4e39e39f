"""The replicas' lines in Ray's logs: a JSON object per line, with the run, the partition and, for a single image, its
id."""

import json
import logging
import sys
import time
from typing import TextIO

from p2pz_ray.commit.manifest import Manifest

LOG = logging.getLogger("p2pz_ray")


class Lines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, message, and the fields in `extra={"p2pz": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
        line = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | getattr(record, "p2pz", {}), ensure_ascii=False)


def write_lines(stream: TextIO | None = None) -> None:
    """Write this process's events as lines, to standard error by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    LOG.handlers, LOG.propagate = [handler], False
    LOG.setLevel(logging.INFO)


def committed(run: str, manifest: Manifest) -> None:
    spent = round(manifest.finished - manifest.started, 3)
    counts = {"images": manifest.images, "failed": manifest.failed, "seconds": spent, "stages": manifest.seconds}
    LOG.info("partition committed", extra={"p2pz": {"run": run, "partition": manifest.partition, **counts}})


def failed(run: str, partition: str, image: str, sentence: str) -> None:
    LOG.warning(sentence, extra={"p2pz": {"run": run, "partition": partition, "image": image}})


def assumed(run: str, partition: str, image: str, sentence: str) -> None:
    """Log what was assumed about a picture that is translated nevertheless."""
    LOG.info(sentence, extra={"p2pz": {"run": run, "partition": partition, "image": image}})
