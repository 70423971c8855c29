"""Pictures drawn by other processes, which load PyVista and open a window while this one loads the network.

Source: the panels of Figs 2 to 7.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from fer_cli.executor import WorkExecutor
from fer_cli.render import draw_pngs
from fer_cli.scene import Scene
from fer_cli.workers import open_executor

Pngs = dict[str, bytes]
_NEEDS = "pyvista.plotting"
"""What takes long to import, before fer's own modules."""


class Drawing:
    """Draws scenes by an executor; `begin` returns at once, and what it returns waits for the pictures."""

    def __init__(self, executor: WorkExecutor) -> None:
        self._executor = executor

    def begin(self, scenes: Mapping[str, Scene], *, parts: int = 1) -> Callable[[], Pngs]:
        """Begin to draw scenes, shared among at most so many processes.

        What is returned gives each picture as a PNG; it raises ResourceError if the machine cannot draw or a process
        died.
        """
        names = list(scenes)
        futures: list[Future[Pngs]] = [
            self._executor.submit(draw_pngs, {name: scenes[name] for name in names[part::parts]})
            for part in range(min(parts, len(names)))
        ]

        def finish() -> Pngs:
            drawn: Pngs = {}
            for future in futures:
                drawn.update(self._wait(future))
            return {name: drawn[name] for name in names}

        return finish

    def _wait(self, future: "Future[Pngs]") -> Pngs:
        return self._executor.wait(future)


@contextmanager
def open_drawing(processes: int | None = None) -> Iterator[Drawing]:
    """Processes that draw, one a core unless told otherwise; they get ready at once."""
    count = processes or os.cpu_count() or 1
    with open_executor(count, preload=_NEEDS, apart=True) as executor:
        drawing = Drawing(executor)
        for _ in range(count):
            drawing.begin({"nothing": Scene((1, 1, 1))})
        yield drawing
