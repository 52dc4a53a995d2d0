"""Pillow's process-wide settings as our reading needs them, whatever another custom node has set, given back afterwards."""
from __future__ import annotations

import warnings
from threading import Lock
from types import TracebackType

from PIL import ImageFile


class PillowRules:
    """While a thread is inside, Pillow refuses truncated files and its warnings are muted.

    Many custom nodes set ImageFile.LOAD_TRUNCATED_IMAGES = True for good; half of a picture would then be read as grey.
    Muted are warnings only: about large pictures (pixels.MOST_PIXELS is the limit), odd metadata and palettes. Errors stay
    errors. The first reader sets and the last one restores, so that reading threads do not undo each other's settings.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers = 0
        self._truncated = False
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._truncated, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._readers += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._warnings.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = self._truncated


RULES = PillowRules()  # one for the process, because Pillow's settings are
