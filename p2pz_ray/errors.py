"""The errors. Each message is one sentence that names the file, row or key and says what to do."""


class P2PZError(Exception):
    """Anything the user can mend; `str(error)` is one clear sentence. The command line exits with 1."""


class ConfigError(P2PZError):
    """A wrong configuration or command line, found before any work starts. The command line exits with 2."""


class StoppedError(P2PZError):
    """A signal of this number stopped the work. The command line exits with 128 + number, as a shell does: 143 for
    SIGTERM, 130 for Ctrl-C."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number = number


class ImageError(P2PZError):
    """One image can't be used. It becomes an error row; the other images go on."""


def first_line(error: BaseException | None) -> str:
    """An error's message in one line without a full stop, for use inside a sentence."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    lines = said.strip().splitlines()
    return (lines[0].rstrip(". :") if lines else "") or type(error).__name__
