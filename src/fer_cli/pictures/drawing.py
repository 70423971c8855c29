"""Pictures drawn by other processes, which load PyVista and open a window while this one loads the network.

Source: the panels of Figs 2 to 7.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cached_property

from fer_cli.execution.executor import WorkExecutor
from fer_cli.execution.workers import open_executor, preload_for_workers
from fer_cli.pictures.render import draw_pngs
from fer_cli.pictures.scene import Scene

Pngs = dict[str, bytes]
_NEEDS = ("pyvista.plotting", "fer_cli.pictures.render")


class Drawing:
    """Draws scenes in other processes; `begin` returns a function that waits for the pictures.

    The processes start when there is something to draw, and end with the `stack`.
    """

    def __init__(self, processes: int, stack: ExitStack) -> None:
        self.processes = processes
        self._stack = stack

    @cached_property
    def _executor(self) -> WorkExecutor:
        return self._stack.enter_context(open_executor(self.processes, preload=_NEEDS, apart=True))

    def get_ready(self) -> None:
        """Let every process open a window now, for pictures that come soon."""
        for _ in range(self.processes):
            self.begin({"nothing": Scene((1, 1, 1))})

    def begin(
        self, scenes: Mapping[str, Scene], *, parts: int = 1, sizes: Mapping[str, int] | None = None
    ) -> Callable[[], Pngs]:
        """Begin to draw scenes, of given `sizes` where they are not the usual, in at most `parts` processes.

        What is returned gives each picture as a PNG; it raises ResourceError if the machine cannot draw or a process
        died.
        """
        names = list(scenes)
        futures: list[Future[Pngs]] = [
            self._executor.submit(draw_pngs, {name: scenes[name] for name in names[part::parts]}, sizes=sizes)
            for part in range(min(parts, len(names)))
        ]

        def finish() -> Pngs:
            drawn: Pngs = {}
            for future in futures:
                pngs: Pngs = self._executor.wait(future)
                drawn.update(pngs)
            return {name: drawn[name] for name in names}

        return finish


@contextmanager
def open_drawing(processes: int | None = None, *, soon: bool = True) -> Iterator[Drawing]:
    """Offer processes that draw, by default one for each core; with `soon` they import libraries from now on."""
    if soon:
        preload_for_workers(*_NEEDS)
    with ExitStack() as stack:
        yield Drawing(processes or os.cpu_count() or 1, stack)
