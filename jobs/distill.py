"""Distil pairs into a student, as a Ray job:

ray job submit --working-dir . -- python jobs/distill.py CONFIG [KEY=VALUE …]
"""

import sys

from p2pz_ray.cli import main

sys.exit(main(["distill", *sys.argv[1:]]))
