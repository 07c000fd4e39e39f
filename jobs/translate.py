"""Translate a collection, as a Ray job:

ray job submit --working-dir . -- python jobs/translate.py CONFIG [KEY=VALUE …]
"""

import sys

from p2pz_ray.cli import main

sys.exit(main(["translate", *sys.argv[1:]]))
