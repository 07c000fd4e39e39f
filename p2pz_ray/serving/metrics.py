"""A service's metrics, for Ray's dashboard and Prometheus; there each name begins with `ray_`."""

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
FILL = [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


class EngineMetrics:
    """The metrics of one replica of an engine. size: the largest batch, in pictures."""

    def __init__(self, engine: str, size: int) -> None:
        self.size = size
        self.pictures = Counter("p2pz_serve_pictures", "Pictures that were edited.", ("engine",))
        self.abandoned = Counter("p2pz_serve_abandoned", "Pictures whose clients disconnected.", ("engine",))
        self.steps = Counter("p2pz_serve_steps", "Steps of inversion and editing, times pictures.", ("engine",))
        self.queue = Gauge("p2pz_serve_queue", "Pictures waiting in a replica.", ("engine",))
        self.fill = Histogram("p2pz_serve_batch_fill", "Share of the largest batch that was used.", FILL, ("engine",))
        self.seconds = Histogram("p2pz_serve_batch_seconds", "From a batch's start to its end.", SECONDS, ("engine",))
        for metric in (self.pictures, self.abandoned, self.steps, self.queue, self.fill, self.seconds):
            metric.set_default_tags({"engine": engine})

    def answered(self, pictures: int, seconds: float) -> None:
        self.pictures.inc(pictures)
        self.fill.observe(pictures / self.size)
        self.seconds.observe(seconds)


class IngressMetrics:
    """The metrics of one ingress: requests by path and status, and the seconds they took."""

    def __init__(self) -> None:
        self.requests = Counter("p2pz_serve_requests", "Requests.", ("path", "status"))
        self.seconds = Histogram("p2pz_serve_request_seconds", "From a request to its answer.", SECONDS, ("path",))

    def answered(self, path: str, status: int, seconds: float) -> None:
        self.requests.inc(1, {"path": path, "status": str(status)})
        self.seconds.observe(seconds, {"path": path})
