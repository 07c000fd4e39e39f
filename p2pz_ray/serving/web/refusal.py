"""The error that a client gets: one sentence, in the JSON that OpenAI's clients parse."""

from typing import Any

from fastapi.responses import JSONResponse

from p2pz_ray.storage.failure import shown

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class RefusalError(Exception):
    """status: the HTTP status. message: one sentence. param: the field of the request that is wrong. code: a word for
    programs. retry_after: seconds after which the same request may succeed."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error")
        param = None if self.param is None else shown(self.param)
        return {"error": {"message": shown(self.message), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def busy(message: str, retry_after: int = 2) -> RefusalError:
    """The error of a request that may succeed a little later."""
    return RefusalError(503, message, code="overloaded", retry_after=retry_after)
