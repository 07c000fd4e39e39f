"""The distributed job: a collection cut into partitions, and replicas of the model that work them off, on Ray."""
