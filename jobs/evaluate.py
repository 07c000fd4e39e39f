"""Score a run, as a Ray job:

ray job submit --working-dir . -- python jobs/evaluate.py CONFIG [KEY=VALUE …]
"""

import sys

from p2pz_ray.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
