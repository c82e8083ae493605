"""A thread for what takes long, so that who hands it over never waits for it."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

Item = TypeVar('Item')


class Source(Protocol[Item]):
    """What keeps the newest item, of one camera for example."""

    def take(self) -> Item | None:
        """Return the newest item once; called holding the worker's condition."""


class Worker(Generic[Item]):
    """
    Hands the newest items of all sources to `process`, in a thread of its own.

    :param new_item: notified whenever a source has one.
    :param name: of the thread.
    """

    def __init__(self, sources: Sequence[Source[Item]], new_item: threading.Condition,
                 process: Callable[[list[Item]], None], name: str) -> None:
        self._sources = sources
        self._new_item = new_item
        self._process = process
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take items."""
        self._thread.start()

    def stop(self) -> None:
        """Return once the items in work are done; none is processed afterwards."""
        with self._new_item:
            self._stopping = True
            self._new_item.notify()
        self._thread.join()

    def busy_for(self) -> float:
        """Return for how long (s) it has been at work on the items in hand; 0 if on none."""
        busy_since = self._busy_since
        return 0.0 if busy_since is None else time.monotonic() - busy_since

    def _run(self) -> None:
        while items := self._wait_for_items():
            self._busy_since = time.monotonic()
            self._process(items)
            self._busy_since = None

    def _wait_for_items(self) -> list[Item]:
        """Return the newest item of each source that has one; none means stop."""
        with self._new_item:
            while not self._stopping:
                taken = [source.take() for source in self._sources]
                items = [item for item in taken if item is not None]
                if items:
                    return items
                self._new_item.wait()
        return []
