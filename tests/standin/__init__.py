"""A stand-in of CVAT's server for tests: its REST API behind a real socket.

It behaves as CVAT 2.54 does, its sloppiness included; the code is meant to be read as a description
of that server. A real cvat-sdk or any HTTP client talks to it.

    with StandIn() as cvat:
        ann = cvat.add_user("ann", groups=["worker"])
        task = cvat.add_task("clip", ["car", "road"], frames=[np.zeros((48, 64, 3), np.uint8)] * 6)
        make_client(cvat.url, access_token=cvat.admin.token)   # or (admin.name, admin.password)

The server:
    cvat.url, cvat.admin (id, name, password, token), cvat.world (all tables; `version` may be set)
    cvat.add_user(name, password, groups), cvat.token(user, read_only=False)
    cvat.add_organization(slug, owner, {user name: role})
    cvat.add_project(name, labels), cvat.add_task(name, labels, frames or video, job_size=, ...)
    cvat.task(id), cvat.job(id), cvat.project(id), cvat.label(task, name), cvat.shapes(job)
    cvat.snapshot(), cvat.restore(snapshot), cvat.down(), cvat.up(), cvat.delivered()
    Whatever the stand-in itself cannot handle is answered with 500 and raised when it is closed.
    StandIn(clock=...) sets the time; every write is at least a microsecond later than the last.

People in the web interface:
    ann = cvat.person("ann"); ann.draw(job, {"frame": 0, "label_id": 1, "points": [...]})
    set_class, relabel, move, carve, delete, delete_and_undo, copy, remove_tag, remove_all, finish,
    reopen, reject, accept, resolve, draw_track; `ann.call(method, path, body)` for all else. None
    of it is logged.

Disturbances:
    cvat.requests                     every request: number, method, path, query, size, user, status
    cvat.faults = {3: Fault.LATE}     or a function of the request; see `Fault`
    cvat.before_request(request)      called in the server's thread before it acts
    cvat.after_request(request)       called after it acted, before the client sees the answer
    cvat.process_dies(n, "before")    a context in which the client's process ends at request n

Left out: cloud storages, share and remote files, TUS uploads (files over 100 MB), archives, PDF,
3-D, audio, honeypots, consensus, skeletons, backups, exports and imports but that of the log of
events (`world.analytics`, `world.working_time`), quality, lambda, invitations, the moving of tasks
between projects, and events of comments and memberships.
"""

from .cvat import Account, Person, ProcessDied, StandIn
from .server import Fault, Request

__all__ = ["Account", "Fault", "Person", "ProcessDied", "Request", "StandIn"]
