"""The distributed job on Ray: a pool of replicas of the model that processes partitions of a collection."""
