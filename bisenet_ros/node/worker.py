"""Threads: one for work that takes long, and one that repeats an action meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Worker(Generic[Item]):
    """
    Passes new items to `process`, in a thread of its own.

    :param take: returns the newest items, each once, or an empty list; called holding `new_item`.
    :param new_item: notified whenever there is a new item.
    :param name: of the thread.
    """

    def __init__(self, take: Callable[[], list[Item]], new_item: threading.Condition,
                 process: Callable[[list[Item]], None], name: str) -> None:
        self._take = take
        self._new_item = new_item
        self._process = process
        self._stopping = False
        self._busy_since: float | None = None
        self._at_rest = threading.Event()
        self._at_rest.set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to take items."""
        self._at_rest.clear()
        try:
            self._thread.start()
        except RuntimeError:  # For example where a container limits threads.
            self._at_rest.set()
            raise

    def stop(self, timeout: float | None = None) -> bool:
        """
        Wait until the items in work are done; none is processed afterwards.

        :param timeout: seconds, None: for ever.
        :returns: whether they are done.
        """
        with self._new_item:
            self._stopping = True
            self._new_item.notify_all()  # Other workers may wait for it, too.
        # Not by join(): if a signal interrupts it, Python up to 3.12 believes that the thread has
        # ended.
        return self._at_rest.wait(timeout)

    def busy_for(self) -> float:
        """Return for how long (s) it has been at work on the items in hand; 0 if on none."""
        busy_since = self._busy_since
        return 0.0 if busy_since is None else time.monotonic() - busy_since

    def _run(self) -> None:
        try:
            while items := self._wait_for_items():
                self._busy_since = time.monotonic()
                self._process(items)
                self._busy_since = None
        finally:
            self._at_rest.set()

    def _wait_for_items(self) -> list[Item]:
        """Wait for items and return them; an empty list means stop."""
        with self._new_item:
            while not self._stopping:
                if items := self._take():
                    return items
                self._new_item.wait()
        return []


@contextmanager
def repeated(action: Callable[[], None], period: float) -> Iterator[None]:
    """While the block runs, call `action` in another thread: at once, then every `period` s."""
    done = threading.Event()

    def repeat() -> None:
        action()
        while not done.wait(period):
            action()

    thread = threading.Thread(target=repeat, name='repeated', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
