"""A queue of threads that use one thing in turn, first come, first served."""

import threading


class Line:
    """Tickets in order; the holder of the first has its turn until it leaves."""

    def __init__(self) -> None:
        self._tickets: list[object] = []
        self._changed = threading.Condition()

    def join(self) -> object:
        """A ticket at the end of the line."""
        ticket = object()
        with self._changed:
            self._tickets.append(ticket)
        return ticket

    def wait(self, ticket: object) -> None:
        """Wait until it is this ticket's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._tickets[0] is ticket)

    def leave(self, ticket: object) -> None:
        """Whether it had its turn or not; that it has left already is fine."""
        with self._changed:
            if ticket in self._tickets:
                self._tickets.remove(ticket)
            self._changed.notify_all()
