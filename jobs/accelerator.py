"""Speed, memory and numerical accuracy of this GPU, with random weights in the real layouts: Stable Diffusion 1.5 at
512 px, 2.1 at 768 and XL at 1024, and the student at 256 and 512.

    python jobs/accelerator.py [--seconds 480] [--out FOLDER] [--tiny]

It needs no Ray, no network and no checkpoint: only a machine with PyTorch, transformers, diffusers (0.42 or later) and
what diffusers imports, importlib_metadata, zipp and requests (with urllib3, idna, certifi and charset_normalizer). From
diffusers on, all of them are wheels without compiled parts.

The most important measurements come first. One that can't finish within the remaining --seconds isn't started, and one
that fails has its error in the table. FOLDER/accelerator.json and FOLDER/accelerator.md are rewritten after each.

The measurements are in gpu/, and their order is in gpu/plan.py.

float32 is without TF32, unless a row says so. Random weights are scaled so that ε has unit size and attention picks
some tokens over others. They show speed, memory and rounding, but nothing about the quality of pictures.
"""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu.layouts import TINY, TRUE  # noqa: E402
from gpu.machine import Machine, precision  # noqa: E402
from gpu.plan import NotBuiltError, measurements  # noqa: E402
from gpu.report import Report  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="wall-clock time for everything")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--tiny", action="store_true", help="layouts of a few thousand weights, for a CPU")
    options = parser.parse_args(arguments)
    started = time.monotonic() if arguments is not None else STARTED

    _quiet()
    machine = Machine("cuda" if torch.cuda.is_available() else "cpu")
    report = Report(options.out, machine.facts(), started)
    report.write()
    skipped: list[str] = []
    with precision("float32"):
        for measurement in measurements(machine, TINY if options.tiny else TRUE, options.tiny):
            label = f"{measurement.section} ({measurement.name})"
            if options.seconds - report.spent <= measurement.needs:
                skipped.append(label)
                continue
            try:
                rows = measurement.work()
            except NotBuiltError:
                skipped.append(label)
                continue
            except Exception as error:
                message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                rows = [{"error": f"{measurement.name}: {message}"}]
            machine.free()
            report.add(measurement.section, rows)
    if skipped:
        report.notes.append(f"not started within {options.seconds:.0f} s: {', '.join(skipped)}")
    report.notes.append(f"took {report.spent:.0f} s; load at the end {os.getloadavg()[0]:.1f}")
    report.write()
    print((options.out / "accelerator.md").read_text())
    return 0


def _quiet() -> None:
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    raise SystemExit(main())
