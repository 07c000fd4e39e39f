"""Sending a job to a Ray cluster by its HTTP Jobs API: submit, follow the log, stop."""

import asyncio
import logging
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from p2pz_ray.errors import ConfigError, P2PZError, first_line
from p2pz_ray.running.package import archive, files_to_send, megabytes

PATIENCE = 120.0
"""Seconds for which a cluster that does not answer is asked again, and that a stop may take."""
PAUSE = 0.5  # seconds between two questions
REACH = 10.0  # seconds for the first answer
EXAMPLE = "http://127.0.0.1:8265"
for _chatter in ("dashboard_sdk", "job.sdk"):  # its lines on uploads and sockets would mix with the job's log
    logging.getLogger(f"ray.dashboard.modules.{_chatter}").setLevel(logging.WARNING)


class JobServer:
    """The Jobs API at the address of a cluster's dashboard.

    Its methods raise ConfigError for an unknown job id, P2PZError if the server fails. Raises ConfigError if no cluster
    answers, or if it requires a token that isn't set.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(f"--address {address} is no web address: give the dashboard's, such as {EXAMPLE}.")
        _check_answers(self.address)
        with _no_other_address():
            self.client = self._asked(JobSubmissionClient, self.address)

    def submit(self, verb: str, config: str | None, settings: Sequence[str], folder: Path) -> str:
        """Send `p2pz VERB [CONFIG] SETTINGS` with the folder's files; returns the job's id.

        config: a file, which is sent along wherever it lies, or a URI, which the job itself reads.
        """
        files, name = files_to_send(folder, _named(folder, config, settings)), config
        if config is not None and "://" not in config:
            name = _below(folder, config) or f".p2pz/{Path(config).name}"
            files[name] = Path(config)
        # The cluster runs this line in a shell: quoted, each setting is one word.
        command = shlex.join(["python", "-m", "p2pz_ray.cli", verb, *([name] if name else []), *settings])
        with TemporaryDirectory() as scratch:
            package = Path(scratch, "package.zip")
            package.write_bytes(archive(files))
            print(
                f"Sending {len(files):,} files ({megabytes(package.stat().st_size)}) of {folder.resolve()}.", flush=True
            )
            runtime_env = {"working_dir": str(package)}
            return str(self._asked(self.client.submit_job, entrypoint=command, runtime_env=runtime_env))

    def follow(self, job: str) -> int:
        """Print the job's log, from its beginning until the job ends; returns the job's exit code.

        Reconnects if the connection breaks. Raises P2PZError if the cluster no longer answers, if the job has no exit
        code, and on Ctrl-C: the job goes on then.
        """
        shown, silent_since = 0, None
        try:
            while True:
                try:
                    for text in self._tail(job, shown):
                        print(text, end="", flush=True)
                        shown, silent_since = shown + len(text), None
                    info = self.client.get_job_info(job)
                    silent_since = None
                    if info.status.is_terminal():
                        print(self.client.get_job_logs(job)[shown:], end="", flush=True)
                        return _exit_code(job, info)
                except BrokenPipeError:  # from whatever reads our output, not from the connection
                    raise
                except (RuntimeError, OSError, aiohttp.ClientError) as error:
                    if _absent(error):
                        raise ConfigError(f"{self.address} has no job {job}: check its id.") from None
                    now = time.monotonic()
                    silent_since = silent_since or now
                    if now - silent_since > PATIENCE:
                        raise P2PZError(
                            f"{self.address} no longer answers ({first_line(error)}): what becomes of job {job} "
                            f"can't be told from here.{self._ways(job)}"
                        ) from error
                time.sleep(PAUSE)
        except (KeyboardInterrupt, BrokenPipeError):
            raise P2PZError(self.goes_on(job)) from None

    def stop(self, job: str) -> str:
        """Ask the job to stop, print its log until it has, and return its final status, such as "STOPPED"."""
        said = len(self._asked(self.client.get_job_logs, job))
        self._asked(self.client.stop_job, job)
        deadline = time.monotonic() + PATIENCE
        while not (status := self._asked(self.client.get_job_status, job)).is_terminal():
            if time.monotonic() > deadline:
                raise P2PZError(f"Job {job} has not stopped within {PATIENCE:.0f} s: ask again, or end its machines.")
            time.sleep(PAUSE)
        print(self._asked(self.client.get_job_logs, job)[said:], end="", flush=True)
        return str(status.value)

    def goes_on(self, job: str) -> str:
        """What to tell the user about a job that is no longer followed."""
        return f"Job {job} goes on without this terminal.{self._ways(job)}"

    def _ways(self, job: str) -> str:
        return "".join(
            f"\n  {what:<10} p2pz submit --{option} {job} --address {self.address}"
            for what, option in (("follow it:", "follow"), ("stop it:", "stop"))
        )

    def _tail(self, job: str, skip: int) -> Iterator[str]:
        """The log as it grows, without its first `skip` characters; ends with the job or with the connection."""
        pieces = self.client.tail_job_logs(job)

        async def piece() -> str | None:
            return await anext(pieces, None)

        with asyncio.Runner() as runner:
            while (text := runner.run(piece())) is not None:
                new, skip = text[skip:], max(0, skip - len(text))
                if new:
                    yield new

    def _asked(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """The result of a call of Ray's client. Its errors become sentences that never repeat a token."""
        try:
            return call(*arguments, **options)
        except AuthenticationError:
            raise ConfigError(
                f"{self.address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file of the "
                "cluster's token."
            ) from None
        except (RuntimeError, OSError, ValueError) as error:
            if _absent(error):
                raise ConfigError(f"{self.address} has no such job: check its id.") from None
            raise P2PZError(f"{self.address} refuses: {' '.join(str(error).split())[:300]}") from error


def _exit_code(job: str, info: Any) -> int:
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        raise P2PZError(f"Job {job} was stopped.")
    code = info.driver_exit_code
    if code is None:  # it never ran, or its machine is gone
        raise P2PZError(f"Job {job} failed: {' '.join((info.message or 'nobody knows why').split())}")
    return int(code) if code > 0 else 128 - int(code)  # for a signal, as in a shell


def _absent(error: Exception) -> bool:
    return getattr(error, "status", None) == 404 or "status code 404" in str(error)


def _named(folder: Path, config: str | None, settings: Sequence[str]) -> list[str]:
    """The files and folders in `folder` that a configuration or a setting names, such as a file of sentences."""
    texts = [text for setting in settings for text in _values(setting.partition("=")[2])]
    if config is not None and "://" not in config and Path(config).is_file():
        texts += _texts(yaml.safe_load(Path(config).read_text()))
    named = (_below(folder, str(folder / text)) for text in texts if text and len(text) < 256 and "\0" not in text)
    return [name for name in named if name not in (None, ".") and (folder / name).exists()]


def _values(text: str) -> Iterator[str]:
    """A setting's text, and the texts in it if it is a list or a mapping."""
    yield text
    with suppress(yaml.YAMLError):
        yield from _texts(yaml.safe_load(text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _below(folder: Path, file: str) -> str | None:
    """The file's name relative to the folder, None if it is elsewhere."""
    try:
        return Path(file).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return None


def _check_answers(address: str) -> None:
    """Raise at once if nothing answers: Ray's own client may wait for minutes, and then prints a traceback."""
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=REACH).close()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:
            raise ConfigError(f"{address} is no Ray dashboard: give its address, such as {EXAMPLE}.") from None
    except (OSError, ValueError) as error:
        reason = first_line(getattr(error, "reason", None) or error)
        raise ConfigError(
            f"No Ray cluster answers at {address} ({reason}): check --address, or open a tunnel."
        ) from None


@contextmanager
def _no_other_address() -> Iterator[None]:
    """Within, the variables that Ray's client prefers to its address argument are unset."""
    kept = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
