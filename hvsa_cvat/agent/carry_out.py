"""Carrying out what people asked for on the pages of the dashboard.

A wish is forgotten after it was carried out. An agent that ends in between finds it once more: a
second withdrawal finds no such enrollment, a second extension is refused, as its budget is not
larger than the one there is, and what is asked again twice is asked once.
"""

from __future__ import annotations

from collections.abc import Iterator

from hvsa_cvat.agent.ask_again import ask_again
from hvsa_cvat.agent.context import AgentContext, TaskHeld, alone_with
from hvsa_cvat.agent.extend import Extension, extend
from hvsa_cvat.agent.reports import TaskReport, told
from hvsa_cvat.agent.wishes import Wish, WishKind
from hvsa_cvat.agent.withdraw import withdraw
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.session.store import Store


def carry_out_wishes(agent: AgentContext, only: int | None) -> Iterator[TaskReport]:
    """Do what is asked for all tasks, or for one; report what could not be done."""
    for wish in agent.workspace.wishes.all():
        if only in (None, wish.task):
            refusal = _carry_out(agent, wish)
            if refusal is not None:
                yield TaskReport(wish.task, "", error=refusal)


def _carry_out(agent: AgentContext, wish: Wish) -> str | None:
    """Why the wish was not carried out, in one line."""
    wishes = agent.workspace.wishes
    present = agent.workspace.enrollment(wish.task)
    if present is None or present.key != wish.enrollment:
        wishes.end(wish)
        return None
    lease = agent.workspace.lease(wish.task)
    if lease is not None and lease.owner != agent.workspace.owner:
        return None  # whoever works on the task does it in its next pass
    try:
        refusal = _do(agent, wish, present)
    except (Unreachable, TaskHeld):
        return None  # the next pass tries again
    except Exception as error:  # the tasks go on, whatever it is
        refusal = told(error, agent.workspace.root)
    wishes.end(wish, refusal)
    return refusal


def _do(agent: AgentContext, wish: Wish, enrollment: Enrollment) -> str | None:
    """Returns why it could not be done now."""
    task, arguments = wish.task, wish.arguments
    if wish.kind is WishKind.ASK_AGAIN:
        with (
            alone_with(agent, task) as lease,
            Store(agent.workspace.session_place(enrollment, lease)) as store,
        ):
            ask_again(store)
        return None
    if wish.kind is WishKind.EXTEND:
        asked = Extension(arguments["budget"], arguments["rounds"], arguments["granularity"])
        extend(agent, task, asked, who=wish.who)
        return None
    retracted = withdraw(
        agent, task, children=False, keep_masks=arguments["keep_masks"], who=wish.who
    )
    for line in [] if retracted is None else retracted.lines():
        agent.log(f"task {task}: {line}")
    if retracted is not None and retracted.waits:
        return "people are at work in the task, so it stays enrolled; ask again when they are done"
    return None
