"""The phases of a session that compute, one after the other, wherever that is done."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.agent.orders import ComputeRounds
from hvsa_cvat.agent.reports import told
from hvsa_cvat.agent.start_file import start_checkpoint
from hvsa_cvat.agent.start_network import check_machine
from hvsa_cvat.agent.stored import stored_session
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.frames import LackingFramesError, open_kept_frames
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.session.compute import choose_ahead, compute
from hvsa_cvat.session.context import RunContext, RunInputs
from hvsa_cvat.session.prepare import prepare
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store
from hvsa_cvat.video.flow_estimators import choose_flow


def compute_rounds(order: ComputeRounds, contact: Contact) -> Computed:
    """Run phases until one is due that speaks to people. An error ends it, and is reported."""
    moved: list[str] = []
    seconds: list[tuple[Phase, int, float]] = []

    def computed(error: str | None = None, *, lacks_frames: bool = False) -> Computed:
        return Computed(tuple(moved), tuple(seconds), error, lacks_frames)

    try:
        with Store(order.place) as store:
            work = _Work(order, store, contact)
            while work.session.current.phase.computes:
                due = work.session.current
                moved.append(work.step())
                took = work.session.rounds[due.number].seconds.get(due.phase.value, 0.0)
                seconds.append((due.phase, due.number, took))
                contact.log(f"task {order.task}: {moved[-1]} done")
                if contact.stopping():
                    break
            else:
                work.choose_ahead()
    except LackingFramesError as error:
        if not order.fetched:
            return computed(lacks_frames=True)
        return computed(told(error, order.folder))
    except Exception as error:  # the other tasks go on, whatever it is
        return computed(told(error, order.folder))
    return computed()


class _Work:
    """One session whose folder is held."""

    def __init__(self, order: ComputeRounds, store: Store, contact: Contact) -> None:
        self.session = stored_session(store)
        self._order = order
        self._store = store
        self._contact = contact
        self._config = RunConfig.model_validate(self.session.config)

    def step(self) -> str:
        """Finish the phase that is due, and name it."""
        current = self.session.current
        due = f"round {current.number}: {current.phase}"
        self._contact.step(due)
        self.session = compute(
            self.session, self._store, lambda: self._context, self._contact.clock
        )
        return due

    def choose_ahead(self) -> None:
        """Choose the samples of the next round, so that people are asked without waiting for a
        worker once the masks are published."""
        if self.session.current.phase is Phase.PUBLISH:
            self._contact.step(f"round {self.session.current.number + 1}: {Phase.SELECT}")
            choose_ahead(self.session, self._store, self._context, self._contact.clock)

    def _progress(self, step: str, done: int, total: int) -> None:
        current = self.session.current
        where = f"task {self._order.task}: round {current.number}: {current.phase}"
        self._contact.progress(f"{where}: {step}", done, total)

    @cached_property
    def _checkpoint(self) -> Path:
        store, size = self._store, self._config.size
        return start_checkpoint(store.root, self._order.options, size, store.checksums)

    @cached_property
    def _context(self) -> RunContext:
        options, media, root = self._order.options, self._order.media, self._store.root
        device = choose_device(options.device)
        flow, _ = choose_flow(self._config.flow, device.type, options.flow_weights)
        network, classes = read_info(self._checkpoint).network, len(self.session.labels)
        takes = check_machine(media, classes, self._config, network, flow, device, root)
        if self.session.current.number == 0:
            self._contact.log(f"task {self._order.task}: takes {takes}")
        chunks = self._store.path("cvat", "chunks")
        self._store.bring(chunks)
        inputs = RunInputs(
            source=open_kept_frames(self._order.server, media, chunks),
            labels=self.session.labels,
            config=self._config,
            checkpoint=self._checkpoint,
            flow=flow,
            device=device,
        )
        return prepare(inputs, self._store, full_clicks=None, progress=self._progress)
