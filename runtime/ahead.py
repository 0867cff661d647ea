"""An iterator that works ahead: its items are made in a thread of its own, a few before they are asked for.

The order stays, and an error comes after the items before it, as without a thread. Memory is bounded: of items that
were not taken there are at most `n`, the one being made included.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item], Iterator[Item]):
    """Items of a generator, made ahead. The thread starts with the first item asked for; `close` ends it."""

    def __init__(self, items: Generator[Item, None, None], n: int, *, name: str) -> None:
        """n: items that may be made ahead, at least 1. name: of the thread."""
        if n < 1:
            raise ValueError(f"{n} items ahead; at least 1 is needed")
        self._items, self._n = items, n
        self._made: deque[Item] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = self._done = False
        # A daemon: whoever forgets to close it can still end the program.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __next__(self) -> Item:
        """The next item, waited for. Raises what making it raised, once, and StopIteration from then on."""
        if self._thread.ident is None and not self._stopped:
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._made or self._done or self._stopped)
            if self._made and not self._stopped:
                item = self._made.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None and not self._stopped:
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the thread and the generator; waits until the item that is being made is done. Twice is allowed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._made.clear()
        self._items.close()

    def _work(self) -> None:
        """What the thread does. The generator is closed by it alone while it lives."""
        try:
            while self._may_make_one():
                item = next(self._items)
                with self._changed:
                    self._made.append(item)
                    self._changed.notify_all()
                del item
        except StopIteration:
            pass
        except BaseException as error:  # raised again where the items are taken
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _may_make_one(self) -> bool:
        """Wait until there is room for one more; False if it is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._made) < self._n or self._stopped)
            return not self._stopped
