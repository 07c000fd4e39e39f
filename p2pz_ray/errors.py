"""What can go wrong, in one sentence each: every message names the file, row or key and says what to do."""


class P2PZError(Exception):
    """Anything the user can mend; `str(error)` is one clear sentence. The command line exits with 1."""


class ConfigError(P2PZError):
    """A wrong configuration or command line, found before any work starts. The command line exits with 2."""


class StoppedError(P2PZError):
    """Somebody asked for an end by a signal of this number. The command line exits with 128 and that, as a shell does:
    143 for a stop, 130 for Ctrl-C."""

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number = number


class ImageError(P2PZError):
    """One image can't be used. It becomes an error row; its neighbours go on."""


def first_line(error: BaseException | None) -> str:
    """What an error says, in one line without a full stop, to stand inside a sentence."""
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    lines = said.strip().splitlines()
    return (lines[0].rstrip(". :") if lines else "") or type(error).__name__
