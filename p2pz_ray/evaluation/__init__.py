"""What a run is worth: its pairs against the truth where there is one, and a report to look at."""

from p2pz_ray.evaluation.report import write_report
from p2pz_ray.evaluation.run import Run
from p2pz_ray.evaluation.truth import PairError, Truth, TruthSummary, psnr

__all__ = ["PairError", "Run", "Truth", "TruthSummary", "psnr", "write_report"]
