"""The service on Ray Serve: an ingress that answers HTTP, and one deployment per engine with its own replicas and
batches."""

from typing import Any

from ray import serve

from p2pz_ray.config.processes import Processes
from p2pz_ray.config.serve import BatchConfig, ServeConfig
from p2pz_ray.errors import ConfigError
from p2pz_ray.serving.engines import ServedEditor, ServedStudents
from p2pz_ray.serving.offer import Offer
from p2pz_ray.serving.prepare import prepare
from p2pz_ray.serving.web.ingress import Ingress

DRAIN = 30.0
"""Seconds that a replica has to finish its work when it is shut down."""


def application(args: dict[str, Any]) -> serve.Application:
    """The application that `serve deploy` and KubeRay build: `args` are the keys of `p2pz serve`.

    Here the address is set outside of this configuration, so a token is always required. Raises ConfigError.
    """
    config = ServeConfig.model_validate(args)
    if config.token_env is None:
        raise ConfigError("token_env is missing: clients of a deployed service must send a token.")
    return bound(prepare(config))


def bound(offer: Offer, gpus: bool = False) -> serve.Application:
    """The deployments of an offer. gpus: whether the cluster has GPUs, for device=auto."""
    config = offer.config

    def engine(kind: type, name: str, replicas: Processes, batch: BatchConfig) -> Any:
        fewest, most = replicas.bounds
        gpus_per_replica = replicas.gpus
        if gpus_per_replica is None:
            gpus_per_replica = 1.0 if config.device == "cuda" or (config.device == "auto" and gpus) else 0.0
        return serve.deployment(kind, name=name).options(
            # One batch at work, and enough waiting requests to choose the next batches from.
            max_ongoing_requests=4 * batch.size,
            max_queued_requests=config.limits.queue,
            autoscaling_config={
                "min_replicas": fewest,
                "max_replicas": most,
                "target_ongoing_requests": 2 * batch.size,
            },
            ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": gpus_per_replica},
            graceful_shutdown_timeout_s=DRAIN,
        )

    editor = engine(ServedEditor, "model", config.replicas, config.batch).bind(config)
    students = None
    if offer.students:
        students = engine(ServedStudents, "student", config.student_replicas, config.student_batch).bind(config)
    return (
        serve.deployment(Ingress, name="ingress")
        .options(
            num_replicas=config.ingresses,
            max_ongoing_requests=10_000,  # the engines' own limits apply first
            ray_actor_options={"num_cpus": 0},
        )
        .bind(offer, editor, students)
    )
