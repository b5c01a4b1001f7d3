"""Items made on a thread while those before them are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["prefetched"]

_END = object()


def prefetched(items: Iterable, n: int) -> Iterator[Any]:
    """items, made by a thread that is at most n ahead. An error of theirs is raised where its item would come.

    The thread ends with the items, or when the iteration is given up.
    """
    ready: queue.Queue = queue.Queue(n)
    stopped = threading.Event()

    def put(entry) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def work():
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as e:
            put((_END, e))

    thread = threading.Thread(target=work, name="pynn-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
