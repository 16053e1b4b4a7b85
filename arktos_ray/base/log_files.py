"""Log lines on their way to a file, by a thread of their own: a disk that hangs stops nobody.

A line is formatted where it is said, and written by the thread. Bounded: when the disk does not
keep up, lines are dropped, and counted in the next one that is written.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import threading
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
_BACKUPS = 3
# About 200 B each, so 2 MB while the disk hangs. Then lines are dropped.
LINES_WAITING_MAX = 10_000
# How long the end of a process waits for its last lines.
_FLUSH_S = 1.0


class LogFile(logging.Handler):
    """A rotating file. `flush` waits for a second at most, whatever the disk does."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self.dropped = 0
        self._waiting: queue.Queue[str] = queue.Queue(LINES_WAITING_MAX)
        self._file = logging.handlers.RotatingFileHandler(
            path, maxBytes=bytes_max, backupCount=_BACKUPS
        )
        threading.Thread(target=self._write, name=f"log {path.name}", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            self._waiting.put_nowait(line)
        except queue.Full:
            self.dropped += 1
        except Exception:
            self.handleError(record)

    def _write(self) -> None:
        while True:
            line = self._waiting.get()
            dropped, self.dropped = self.dropped, 0
            if dropped:
                line = f"({dropped} lines were dropped: the disk did not keep up)\n{line}"
            # Formatted already: the file's own handler only writes and rotates.
            self._file.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
            self._waiting.task_done()

    def flush(self) -> None:
        waiting = self._waiting
        with waiting.all_tasks_done:
            waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, _FLUSH_S)
