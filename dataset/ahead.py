"""Loading before and writing after the work of the calling thread, in threads that never run far away from it."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

PATIENCE = 0.2  # seconds between two looks at the Cancel button while nothing is ready

T = TypeVar("T")
R = TypeVar("R")


class ReadAhead(Generic[T, R]):
    """work(item) for each item, in threads, at most `depth` of them done or begun and not yet taken.

    With a depth of 0 nothing is done while the caller works on a result.
    A context: it starts on entry; on exit, whatever the reason, what was not begun is dropped and the threads are joined.
    """

    def __init__(self, work: Callable[[T], R], items: Iterable[T], *, threads: int, depth: int) -> None:
        self.work, self.items, self.depth, self.overlaps = work, iter(items), max(1, depth), depth > 0
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="masked-lora-read")
        self.pending: deque[Future[R]] = deque()

    def __enter__(self) -> ReadAhead[T, R]:
        self._fill()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.pending.clear()

    def results(self, waiting: Callable[[], None]) -> Iterator[R]:
        """In the order of the items; an error of `work` is raised here. `waiting` is called a few times a second while blocked."""
        while self.pending:
            first = self.pending[0]
            while not wait((first,), timeout=PATIENCE).done:
                waiting()
            self.pending.popleft()
            result = first.result()
            del first  # or the future would keep its pixels while the caller works on them
            if self.overlaps:
                self._fill()
            yield result
            del result
            self._fill()

    def _fill(self) -> None:
        while len(self.pending) < self.depth:
            for item in self.items:
                self.pending.append(self.pool.submit(self.work, item))
                break
            else:
                return


class WriteBehind:
    """Calls in one thread, in order, at most `depth` of them waiting. Leaving the context waits for all; errors are raised."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="masked-lora-write")
        self.pending: deque[Future[None]] = deque()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error the calls that wait are still made: what was encoded is then found by the next run.
        self.pool.shutdown(wait=True)
        if kind is None:
            self._take(0)

    def __call__(self, work: Callable[[], None]) -> None:
        self._take(self.depth - 1)
        self.pending.append(self.pool.submit(work))

    def _take(self, left: int) -> None:
        while len(self.pending) > left:
            self.pending.popleft().result()
