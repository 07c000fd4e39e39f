"""The engines as they are served, each with its own batches: the diffusion model, and the students."""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2pz_ray.config.edits import EditConfig
from p2pz_ray.config.section import Device
from p2pz_ray.config.serve import BatchConfig, ServeConfig
from p2pz_ray.editing import EditDirection
from p2pz_ray.editing.model import chosen_device
from p2pz_ray.engines.direction import edit_direction
from p2pz_ray.engines.engine import in_one_pass, load_editor
from p2pz_ray.language.captions import Blip, Captioner
from p2pz_ray.running import log
from p2pz_ray.serving.gathering import Gathering, Waiting
from p2pz_ray.serving.metrics import EngineMetrics
from p2pz_ray.serving.students import load_students
from p2pz_ray.serving.task import Answer, Edit, Part, Progress, Task
from p2pz_ray.student import Student

Batch = list[Waiting[Task, Answer]]


class AbandonedError(Exception):
    """All clients of the batch have disconnected."""


class Served:
    """The base of both engines: batches, progress, health. device: a name as in the configuration."""

    def __init__(self, name: str, device: Device, batch: BatchConfig, threads: float) -> None:
        torch.set_num_threads(max(1, int(threads)))
        log.write_lines()
        self.device = chosen_device(device)
        self.metrics = EngineMetrics(name, batch.size)
        self.gathering: Gathering[Task, Answer] = Gathering(self._run_batch, batch.size, batch.wait)
        self.lost: str | None = None

    async def edit(self, task: Task) -> Answer:
        """The answer; the other pictures of the batch don't change it."""
        self.metrics.queue.set(len(self.gathering))
        return await self.gathering.answer(self.kind(task), task)

    async def watch(self, task: Task) -> AsyncIterator[Progress | Answer]:
        """Progress, step by step, then the answer."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[object]()

        def report(event: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended with its process
                loop.call_soon_threadsafe(events.put_nowait, event)

        answer = asyncio.create_task(self.gathering.answer(self.kind(task), task, report))
        answer.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (progress := await events.get()) is not None:
                assert isinstance(progress, Progress)
                yield progress
            yield await answer
        finally:
            answer.cancel()

    def check_health(self) -> None:
        """Raise RuntimeError if this process can't go on: Serve then starts a new one."""
        if self.lost is not None:
            raise RuntimeError(self.lost)

    def kind(self, task: Task) -> Hashable:
        """What tasks of one batch have in common."""
        return (task.kind, task.pixels.shape)

    def work(self, batch: Batch) -> list[Answer]:
        """Answer tasks of one kind; runs in a thread."""
        raise NotImplementedError

    def _run_batch(self, batch: Batch) -> list[Answer]:
        started = time.perf_counter()
        try:
            answers = self.work(batch)
        except AbandonedError:
            self.metrics.abandoned.inc(len(batch))
            raise
        except Exception as error:
            if "CUDA error" in str(error):
                self.lost = f"the device is lost: {error}"
            if self.device == "cuda":
                torch.cuda.empty_cache()
            raise
        seconds = time.perf_counter() - started
        self.metrics.answered(len(batch), seconds)
        return [replace(answer, seconds=round(seconds, 3), batch=len(batch)) for answer in answers]


class ServedEditor(Served):
    """The diffusion model. Raises ConfigError where it can't be loaded."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__("model", config.device, config.batch, config.replicas.cpus)
        self.config = config
        self.editor = load_editor(config, self.device)
        self.inversion, self.guidance = self.editor.inversion, self.editor.guidance
        captioner = config.captions.model
        self.blip = None if captioner is None else Blip(captioner.name, revision=captioner.revision, device=self.device)
        self._directions: OrderedDict[str | tuple[str, str], EditDirection] = OrderedDict()
        self._lock = threading.Lock()
        threading.Thread(target=self._prepare_directions, daemon=True).start()

    async def facts(self) -> dict[str, Any]:
        """The model, and its settings where a request gives none."""
        settings = self.inversion.resolve(self.editor.model, self.editor.official)
        lambda_xa, cfg, strength = self.guidance.resolve(self.editor.model)
        return {
            "fingerprint": self.editor.fingerprint,
            "device": self.device,
            "steps": settings.steps,
            "lambda_xa": lambda_xa,
            "cfg": cfg,
            "guidance_strength": strength,
        }

    async def make_direction(self, source: str, target: str) -> dict[str, Any]:
        """Prepare the direction between two words; returns its digest and the seconds it took."""
        started = time.perf_counter()
        direction = await asyncio.to_thread(self.direction, (source, target))
        return {"digest": direction.digest, "seconds": round(time.perf_counter() - started, 3)}

    def direction(self, edit: str | tuple[str, str]) -> EditDirection:
        """The direction of an edit with a name, or between two words; remembered."""
        with self._lock:
            if edit not in self._directions:
                self._directions[edit] = self._new_direction(edit)
            self._directions.move_to_end(edit)
            while len(self._directions) > self.config.words.kept + len(self.config.offered):
                self._directions.popitem(last=False)
            return self._directions[edit]

    def _new_direction(self, edit: str | tuple[str, str]) -> EditDirection:
        if isinstance(edit, str):
            return edit_direction(self.config.offered[edit], self.editor.model.text, edit)
        words = EditConfig(source=edit[0], target=edit[1], count=self.config.words.count)
        return edit_direction(words, self.editor.model.text, f"{edit[0]} to {edit[1]}")

    def _prepare_directions(self) -> None:
        """Make the directions of the offered edits before a request needs them."""
        for name, edit in self.config.offered.items():
            if edit.compose is None:
                self.direction(name)

    def work(self, batch: Batch) -> list[Answer]:
        tasks, kind = [waiting.request for waiting in batch], batch[0].request.kind
        editor = self.editor
        editor.inversion = replace(self.inversion, **_without_none(steps=kind.steps))
        editor.guidance = replace(
            self.guidance, **_without_none(lambda_xa=kind.lambda_xa, cfg=kind.cfg, negative=kind.negative)
        )
        steps = editor.inverts.steps
        assert steps is not None
        directions, strengths = zip(*(self._compose(edit) for edit in kind.edits), strict=True)
        pixels = np.stack([task.pixels for task in tasks])
        model_captions = Captioner("", self.blip)(list(pixels), [task.caption for task in tasks])
        captions = [caption or task.otherwise for caption, task in zip(model_captions, tasks, strict=True)]
        masks = np.stack([task.mask for task in tasks if task.mask is not None]) if kind.masked else None
        editor.watch = self._watch(batch, 2 * steps)
        try:
            inversion = editor.invert(pixels, captions, [task.seed for task in tasks])
            edited = editor.edit(inversion, directions, strengths, masks)
        finally:
            editor.watch = None
        return [Answer(edits, caption, 2 * steps, 0.0, 0) for edits, caption in zip(edited, captions, strict=True)]

    def _compose(self, edit: Edit) -> tuple[EditDirection, float]:
        """An edit's direction and how far to go along it."""
        if len(edit) == 1:
            return self._resolve(edit[0])
        first, *others = (direction * strength for direction, strength in map(self._resolve, edit))
        return sum(others, first), 1.0

    def _resolve(self, part: Part) -> tuple[EditDirection, float]:
        offered = self.config.offered.get(part.edit) if isinstance(part.edit, str) else None
        default = 1.0 if offered is None else offered.strength
        strength = default if part.strength is None else part.strength
        if offered is not None and offered.compose is not None:
            first, *others = (self.direction(name) * self.config.offered[name].strength for name in offered.compose)
            return sum(others, first), strength
        return self.direction(part.edit), strength

    def _watch(self, batch: Batch, total: int) -> Callable[[Tensor | None], None]:
        step = 0

        def watch(predicted: Tensor | None) -> None:
            nonlocal step
            step += 1
            self.metrics.steps.inc(len(batch))
            if all(waiting.abandoned for waiting in batch):
                raise AbandonedError
            for row, waiting in enumerate(batch):
                if waiting.report is None or waiting.abandoned:
                    continue
                every, preview = waiting.request.every, None
                if predicted is not None and every and step % every == 0 and step < total:
                    preview, _ = self.editor.model.decode(predicted[row])
                waiting.report(Progress(step, total, preview))

        return watch


class ServedStudents(Served):
    """The students. Raises ConfigError where one can't be loaded."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__("student", config.device, config.student_batch, config.student_replicas.cpus)
        self.config = config
        self.students: dict[str, Student] = load_students(config.student_uris, self.device)

    async def facts(self) -> dict[str, Any]:
        return {"device": self.device}

    def work(self, batch: Batch) -> list[Answer]:
        tasks, kind = [waiting.request for waiting in batch], batch[0].request.kind
        pixels = np.stack([task.pixels for task in tasks])
        masks = np.stack([task.mask for task in tasks if task.mask is not None]) if kind.masked else None
        by_edit = []
        for edit in kind.edits:
            parts = dict(map(self._resolve, edit))
            by_edit.append(in_one_pass(self.students[next(iter(parts))], pixels, masks, [parts]))
        edits = np.concatenate(by_edit, 1)
        return [Answer(edited, task.caption, 1, 0.0, 0) for edited, task in zip(edits, tasks, strict=True)]

    def _resolve(self, part: Part) -> tuple[str, float]:
        """A part's edit and how far it goes."""
        assert isinstance(part.edit, str)
        if not self.students[part.edit].repertoire.width:
            return part.edit, 1.0
        offered = self.config.offered.get(part.edit)
        default = 1.0 if offered is None else offered.strength
        return part.edit, default if part.strength is None else part.strength


def _without_none(**settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}
