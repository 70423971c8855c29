"""Pictures drawn by other processes, which load PyVista and open a window while this one loads the network.

Source: the panels of Figs 2 to 7.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import blake2b

from fer_cli.execution.executor import WorkExecutor
from fer_cli.execution.workers import open_executor, preload_for_workers
from fer_cli.pictures.render import SIZE, draw_pngs
from fer_cli.pictures.scene import Scene

Pngs = dict[str, bytes]
_KEPT = 1000
"""Pictures that are kept: samples of one split share centroids and exemplars, so that half of theirs are the same."""
_NEEDS = ("pyvista.plotting", "fer_cli.pictures.render")


class Drawing:
    """Draws scenes in other processes; `begin` returns a function that waits for the pictures.

    The processes start when there is something to draw, and end with the `stack`.
    """

    def __init__(self, processes: int, stack: ExitStack) -> None:
        self.processes = processes
        self._stack = stack
        self._drawn: Pngs = {}

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
        keys = {name: _key(scene, (sizes or {}).get(name, SIZE)) for name, scene in scenes.items()}
        drawn = {name: self._drawn[key] for name, key in keys.items() if key in self._drawn}
        names = [name for name in scenes if name not in drawn]
        futures: list[Future[Pngs]] = [
            self._executor.submit(draw_pngs, {name: scenes[name] for name in names[part::parts]}, sizes=sizes)
            for part in range(min(parts, len(names)))
        ]

        def finish() -> Pngs:
            for future in futures:
                pngs: Pngs = self._executor.wait(future)
                drawn.update(pngs)
                self._drawn.update((keys[name], png) for name, png in pngs.items())
            while len(self._drawn) > _KEPT:
                del self._drawn[next(iter(self._drawn))]
            return {name: drawn[name] for name in scenes}

        return finish


def _key(scene: Scene, size: int) -> str:
    return blake2b(pickle.dumps((scene, size)), digest_size=16).hexdigest()


@contextmanager
def open_drawing(processes: int | None = None, *, soon: bool = True) -> Iterator[Drawing]:
    """Offer processes that draw, by default one for each core; with `soon` they import libraries from now on."""
    if soon:
        preload_for_workers(*_NEEDS)
    with ExitStack() as stack:
        yield Drawing(processes or os.cpu_count() or 1, stack)
