"""Scores a partition's pairs with all metrics of a configuration."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from p2pz_ray.collection.lookup import Lookup
from p2pz_ray.config.evaluate import EvaluateConfig
from p2pz_ray.errors import ImageError
from p2pz_ray.evaluation.metrics.metric import Mask, Metric, Pair, Scores, alike
from p2pz_ray.evaluation.metrics.saliency import MaskOverlap, Saliency
from p2pz_ray.evaluation.metrics.truth import Truth, TruthScores, picture_size
from p2pz_ray.picture.codec import DecodePolicy, decode, encode

if TYPE_CHECKING:
    from p2pz_ray.evaluation.metrics.segmentation import Segmentation

COLUMNS = ["id", "edit", "status", "source_image", "edited_image", "mask"]


class Scorer:
    """Loads the metrics' models once; `score` then scores rows of a run.

    edits: the run's edits, name → {source, target, …}, for words that the configuration doesn't give.
    fit: how the run fitted images to the model's size; masks and truths are fitted in the same way.

    Raises ConfigError for a missing model, package or collection.
    """

    def __init__(self, config: EvaluateConfig, edits: Mapping[str, Mapping[str, Any]], fit: Any = "crop") -> None:
        self.config, self._fit = config, fit
        self._words = words_of(config, edits)
        device = _device(config.device)
        self._saliency = Saliency() if config.masks.by == "u2netp" else None
        self._segmentation = _segmentation(config, device)
        if self._segmentation:
            for source, _ in self._words.values():
                self._segmentation.check(source)
        given = config.collection
        self._lookup = Lookup(given.uri, given.storage_options, id=given.id) if given else None
        self._truth = None
        if given and (config.metrics.truth or config.masks.by == "world"):
            targets = {edit: target for edit, (_, target) in self._words.items()}
            self._truth = Truth(given.uri, given.storage_options, targets=targets, fit=fit)
        self.metrics = _metrics(config, device)

    @property
    def columns(self) -> dict[str, str]:
        """Each score, and what computes it."""
        columns: dict[str, str] = {}
        for metric in self.metrics:
            columns.update(metric.columns)
        return columns | (dict(TruthScores.columns) if self.config.metrics.truth else {})

    def score(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Scores, int]:
        """A value per row in each column, None where there is no score, as for rows that aren't ok; and the number of
        rows whose pictures can't be read."""
        scores: Scores = {name: [None] * len(rows) for name in self.columns}
        places, pairs, broken = [], [], 0
        for place, row in enumerate(rows):
            if row["status"] != "ok":  # a flagged row holds its picture, a blur of it, or nothing
                continue
            try:
                pairs.append(self._pair(row))
                places.append(place)
                if self._truth and self.config.metrics.truth:
                    for name, value in self._against_truth(row).items():
                        scores[name][place] = value
            except ImageError:
                broken += 1
        for batch in alike(pairs, self.config.batch_size):
            for metric in self.metrics:
                for name, values in metric([pairs[i] for i in batch]).items():
                    for i, value in zip(batch, values, strict=True):
                        scores[name][places[i]] = value
        return scores, broken

    def _pair(self, row: Mapping[str, Any]) -> Pair:
        id, edit = row["id"], row["edit"]
        data = _bytes(row["edited_image"])
        try:
            policy = DecodePolicy(picture_size(data), self._fit)
        except OSError as error:
            raise ImageError(f"{id} ({edit}) has no readable edited picture.") from error
        edited, source = decode(data, policy), decode(_bytes(row["source_image"]), policy)
        words = self._words.get(edit)
        mask, objects = self._mask(id, policy), None
        if self._saliency:
            objects = self._saliency(source), self._saliency(edited)
        elif self._segmentation and words:
            # Without an object before the edit, the overlap would mean nothing.
            before, after = (self._segmentation(*seen) for seen in zip((source, edited), words, strict=True))
            objects = (before, after) if before.any() else None
        elif self._truth and self.config.masks.by == "world":
            found = self._truth.objects(id, encode(source), data)
            objects = (found[0], found[1]) if found else None
        if mask is None and objects:
            mask = objects[0]
        if mask is None and self.config.masks.by == "run":
            kept = _bytes(row["mask"]) if row.get("mask") else None
            mask = None if kept is None else np.asarray(decode(kept, policy).max(axis=2) > 0)
        return Pair(id, edit, source, edited, words, self._texts(id), mask, objects)

    def _mask(self, id: str, policy: DecodePolicy) -> Mask | None:
        column = self.config.masks.column
        data = self._lookup.cell(id, column) if self._lookup and column else None
        if not isinstance(data, bytes):
            return None
        try:
            return np.asarray(decode(data, policy).max(axis=2) > 0)
        except ImageError as error:
            raise ImageError(f"{id}: its mask can't be read: {error}") from error

    def _texts(self, id: str) -> tuple[str, str] | None:
        given = self.config.collection
        if not (self._lookup and given and given.source_text and given.target_text):
            return None
        texts = [self._lookup.cell(id, column) for column in (given.source_text, given.target_text)]
        return (str(texts[0]), str(texts[1])) if all(texts) else None

    def _against_truth(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        assert self._truth is not None
        source, edited = _bytes(row["source_image"]), _bytes(row["edited_image"])
        return TruthScores.of(
            self._truth.error(row["id"], row["edit"], source, edited),
            self._truth.objects(row["id"], edited, self._truth.picture(row["id"], row["edit"])),
        )


def words_of(config: EvaluateConfig, edits: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Edit → source and target word: from this configuration, else from the run's."""
    words = {
        name: (str(edit["source"]), str(edit["target"]))
        for name, edit in edits.items()
        if edit.get("source") and edit.get("target")
    }
    return words | {name: (given.source, given.target) for name, given in config.words.items()}


def _metrics(config: EvaluateConfig, device: str) -> list[Metric]:
    # Each is imported only if it is used: their packages are optional.
    wanted, made = config.metrics, list[Metric]()
    if wanted.clip:
        from p2pz_ray.evaluation.metrics.clip import ClipScore

        model = wanted.clip.model
        made.append(ClipScore(model.name, model.revision, prompt=wanted.clip.prompt, device=device))
    if wanted.structure:
        made.append(_structure(config, device))
    if wanted.background:
        from p2pz_ray.evaluation.metrics.background import BackgroundDistance

        made.append(BackgroundDistance(wanted.background, device))
    if wanted.accuracy == "efficientnet-lite0":
        from p2pz_ray.evaluation.metrics.photographs import PhotographAccuracy

        made.append(PhotographAccuracy(device))
    elif wanted.accuracy == "judge":
        from p2pz_ray.evaluation.metrics.miniature import JudgeAccuracy

        made.append(JudgeAccuracy())
    if wanted.pixels:
        from p2pz_ray.evaluation.metrics.pixels import PixelDifference

        made.append(PixelDifference())
    if config.masks.by not in (None, "run"):
        known = {"world": "what the scene looks like without one"}
        made.append(MaskOverlap(known.get(str(config.masks.by), str(config.masks.by))))
    return made


def _segmentation(config: EvaluateConfig, device: str) -> "Segmentation | None":
    if config.masks.model is None or config.masks.by in ("u2netp", "world", "run"):
        return None
    from p2pz_ray.evaluation.metrics.segmentation import Segmentation

    return Segmentation(config.masks.model.name, config.masks.model.revision, device)


def _structure(config: EvaluateConfig, device: str) -> Metric:
    wanted = config.metrics.structure
    assert wanted is not None
    if wanted.model.name == "efficientnet-lite0":
        from p2pz_ray.evaluation.metrics.photographs import photograph_structure

        return photograph_structure(device)
    if wanted.model.name == "judge":
        from p2pz_ray.evaluation.metrics.miniature import judge_structure

        return judge_structure()
    from p2pz_ray.evaluation.metrics.structure import dino

    return dino(wanted.model.name, wanted.model.revision, wanted.scale, device)


def _device(wanted: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _bytes(image: Mapping[str, Any] | None) -> bytes:
    return (image or {}).get("bytes") or b""
