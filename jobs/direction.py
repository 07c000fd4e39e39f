"""Make a direction, as a Ray job:

ray job submit --working-dir . -- python jobs/direction.py CONFIG [KEY=VALUE …]
"""

import sys

from p2pz_ray.cli import main

sys.exit(main(["direction", *sys.argv[1:]]))
