"""The paper's ablation and a sweep of guidance and strength as one Ray job:

python jobs/ablation.py configs/mini/ablation.yaml [KEY=VALUE …]

Writes a scored run to OUTPUT/VARIANT for each variant, then OUTPUT/ablation.json and OUTPUT/tradeoff.svg. Run again,
it makes only what is missing.
"""

import json
import sys
from typing import Any

from p2pz_ray.config import load
from p2pz_ray.errors import ConfigError, P2PZError
from p2pz_ray.evaluation.evaluate import evaluate
from p2pz_ray.report.ablation import (
    AblationConfig,
    caption,
    evaluation,
    run_of,
    table,
    trade_off,
    translation,
    variants,
    words_of,
)
from p2pz_ray.running.cluster import connected
from p2pz_ray.storage.store import Store
from p2pz_ray.translation.run import translate


def ablate(config: AblationConfig) -> dict[str, Any]:
    """Make and score every variant; returns the content of ablation.json."""
    store, files = Store(config.output), {}
    for name, words in words_of(config).items():
        files[name] = {side: f"words/{name}-{side}.txt" for side in ("source", "target")}
        for file, word in zip(files[name].values(), words, strict=True):
            store.write(file, f"{caption(word)}\n".encode())
    named = {name: {side: store.name(file) for side, file in of.items()} for name, of in files.items()}
    planned = variants(config, named)
    checked = [(variant, translation(config, variant), evaluation(config, variant)) for variant in planned]
    found: dict[Any, Any] = {}
    with connected(checked[0][1]):
        for number, (variant, making, scoring) in enumerate(checked, start=1):
            print(f"{number} of {len(checked)}: {variant.name}", flush=True)
            print(f"  {translate(making)}")
            found[variant] = evaluate(scoring)["all"]
    points = {
        variant: (scores[config.structure]["mean"], scores[config.accuracy]["mean"])
        for variant, scores in found.items()
        if config.structure in scores and config.accuracy in scores
    }
    print("\n".join(table(found, sorted({name for scores in found.values() for name in scores}))))
    if points:
        store.write("tradeoff.svg", trade_off(points, config.accuracy, config.structure).encode())
    else:
        print(f"There is no drawing: no run has both {config.accuracy} and {config.structure} among its scores.")
    summary = {variant.name: {"run": run_of(config, variant), "scores": scores} for variant, scores in found.items()}
    store.write("ablation.json", json.dumps(summary, indent=1).encode())
    return summary


def main() -> int:
    given = sys.argv[1:]
    try:
        path = given.pop(0) if given and "=" not in given[0] else None
        ablate(load(path, given, AblationConfig))
    except P2PZError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
