"""What the planner is compared with: plain greedy rules, naive models, and openstack-placement where it installs.

Ganeti's allocator has a module of its own, `placement_ganeti`.

Every peer gets the same snapshot and request, and returns how many nodes it placed, on how many hosts, in what time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from placement.model import Request, Snapshot


@dataclass(frozen=True)
class Outcome:
    """``hosts`` None: no answer. ``note`` says what a reader must know."""

    name: str
    seconds: float
    hosts: int | None
    placed: int
    note: str = ""


def arrays(snapshot: Snapshot, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """(float[H, 2] free, float[N, 2] demand), vCPUs and memory as shares of the largest host."""
    names = sorted({name for node in request.nodes for name in node.demand})
    free = np.array([[host.free(name) for name in names] for host in snapshot.hosts], float)
    demand = np.array(
        [[node.demand.get(n, 0) for n in names] for node in request.nodes for _ in range(node.count)], float
    )
    return free / free.max(axis=0), demand / free.max(axis=0)


def plain_greedy(snapshot: Snapshot, request: Request, rule: str) -> Outcome:
    """First-fit, best-fit or dot-product, nodes in decreasing order, as most schedulers do."""
    start = time.process_time()
    free, demand = arrays(snapshot, request)
    order = np.argsort(-demand.sum(axis=1), kind="stable")
    used = np.zeros(len(free), bool)
    placed = 0
    for node in demand[order]:
        fits = np.flatnonzero((free >= node - 1e-12).all(axis=1))
        if not len(fits):
            continue
        if rule == "first-fit":
            chosen = fits[np.argmax(used[fits])] if used[fits].any() else fits[0]
        elif rule == "best-fit":
            chosen = fits[np.lexsort([(free[fits] - node).sum(axis=1), ~used[fits]])[0]]
        else:
            chosen = fits[np.lexsort([-(free[fits] @ node), ~used[fits]])[0]]
        free[chosen] -= node
        used[chosen] = True
        placed += 1
    return Outcome(rule, time.process_time() - start, int(used.sum()), placed)


def naive_cp_sat(snapshot: Snapshot, request: Request, seconds: float) -> Outcome:
    """The textbook model: a boolean for each node and host, two workers."""
    from ortools.sat.python import cp_model

    start = time.monotonic()
    model = cp_model.CpModel()
    names = sorted({name for node in request.nodes for name in node.demand})
    used = [model.new_bool_var("") for _ in snapshot.hosts]
    columns: list[list[tuple[cp_model.IntVar, dict[str, int]]]] = [[] for _ in snapshot.hosts]
    for node in request.nodes:
        row = []
        for number, host in enumerate(snapshot.hosts):
            if all(host.free(name) >= amount for name, amount in node.demand.items()):
                on = model.new_bool_var("")
                row.append(on)
                columns[number].append((on, dict(node.demand)))
        model.add_exactly_one(row)
    for number, host in enumerate(snapshot.hosts):
        for name in names:
            load = sum(on * demand.get(name, 0) for on, demand in columns[number])
            model.add(load <= host.free(name) * used[number])
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.1, seconds - (time.monotonic() - start))
    solver.parameters.num_workers = 2
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    hosts = round(solver.objective_value) if found else None
    note = "optimal" if status == cp_model.OPTIMAL else f"limit {seconds:.0f} s"
    return Outcome("naive CP-SAT", time.monotonic() - start, hosts, len(request.nodes) if found else 0, note)


def naive_scip(snapshot: Snapshot, request: Request, seconds: float) -> Outcome:
    """The same model as an integer program in SCIP."""
    from ortools.linear_solver import pywraplp

    start = time.monotonic()
    solver = pywraplp.Solver.CreateSolver("SCIP")
    solver.SetTimeLimit(int(seconds * 1000))
    names = sorted({name for node in request.nodes for name in node.demand})
    used = [solver.BoolVar("") for _ in snapshot.hosts]
    rooms = []
    for host, flag in zip(snapshot.hosts, used, strict=True):
        rows = {name: solver.Constraint(-solver.infinity(), 0.0) for name in names}
        for name, row in rows.items():
            row.SetCoefficient(flag, -float(host.free(name)))
        rooms.append(rows)
    for node in request.nodes:
        once = solver.Constraint(1.0, 1.0)
        for host, rows in zip(snapshot.hosts, rooms, strict=True):
            if all(host.free(name) >= amount for name, amount in node.demand.items()):
                on = solver.BoolVar("")
                once.SetCoefficient(on, 1.0)
                for name, amount in node.demand.items():
                    rows[name].SetCoefficient(on, float(amount))
    for flag in used:
        solver.Objective().SetCoefficient(flag, 1.0)
    status = solver.Solve()
    found = status in (solver.OPTIMAL, solver.FEASIBLE)
    hosts = round(solver.Objective().Value()) if found else None
    note = "optimal" if status == solver.OPTIMAL else f"limit {seconds:.0f} s"
    return Outcome("naive SCIP", time.monotonic() - start, hosts, len(request.nodes) if found else 0, note)


OPENSTACK = """
import json, sys, time, uuid
from oslo_config import cfg
from placement import conf, db_api, deploy
from placement.db.sqlalchemy import migration
task = json.load(open(sys.argv[1]))
config = cfg.ConfigOpts()
conf.register_opts(config)
with open("placement.conf", "w") as file:
    file.write("[api]\\nauth_strategy = noauth2\\n[placement_database]\\nconnection = sqlite:///%s\\n" % sys.argv[2])
config([], default_config_files=["placement.conf"])
db_api.configure(config)
migration.create_schema()
deploy.update_database(config)
app = deploy.loadapp(config)

def call(method, path, body=None):
    import io
    from urllib.parse import urlsplit
    parts = urlsplit(path)
    data = json.dumps(body).encode() if body is not None else b""
    seen = {}
    environ = {"REQUEST_METHOD": method, "PATH_INFO": parts.path, "SCRIPT_NAME": "", "QUERY_STRING": parts.query,
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(data),
        "wsgi.errors": sys.stderr, "CONTENT_LENGTH": str(len(data)), "CONTENT_TYPE": "application/json",
        "HTTP_X_AUTH_TOKEN": "admin", "HTTP_OPENSTACK_API_VERSION": "placement 1.38", "HTTP_ACCEPT": "application/json",
        "wsgi.version": (1, 0), "wsgi.multithread": False, "wsgi.multiprocess": False, "wsgi.run_once": False,
        "SERVER_PROTOCOL": "HTTP/1.1"}
    def start(status, headers, info=None):
        seen["status"] = int(status.split()[0])
    answer = b"".join(app(environ, start))
    return seen["status"], (json.loads(answer) if answer else None)

for number, (cpu, memory) in enumerate(task["hosts"]):
    name = str(uuid.uuid4())
    status, _ = call("POST", "/resource_providers", {"name": "h%d" % number, "uuid": name})
    assert status in (200, 201), status
    full = {k: {"total": v, "allocation_ratio": 1.0} for k, v in (("VCPU", cpu), ("MEMORY_MB", memory)) if v > 0}
    if full:
        status, _ = call("PUT", "/resource_providers/%s/inventories" % name,
            {"resource_provider_generation": 0, "inventories": full})
        assert status == 200, status
start = time.process_time()
placed, asked, used = 0, 0, set()
for cpu, memory in task["nodes"]:
    if time.process_time() - start > task["seconds"]:
        break
    asked += 1
    status, answer = call("GET", "/allocation_candidates?limit=1&resources=VCPU:%d,MEMORY_MB:%d" % (cpu, memory))
    assert status == 200, (status, answer)
    if not answer["allocation_requests"]:
        continue
    chosen = answer["allocation_requests"][0]
    wanted = {"allocations": chosen["allocations"], "project_id": str(uuid.uuid4()), "user_id": str(uuid.uuid4()),
        "consumer_generation": None, "consumer_type": "INSTANCE"}
    status, _ = call("PUT", "/allocations/" + str(uuid.uuid4()), wanted)
    assert status == 204, status
    placed += 1
    used.update(chosen["allocations"])
print(json.dumps({"seconds": time.process_time() - start, "placed": placed, "asked": asked, "hosts": len(used)}))
"""


def _installed(root: Path, name: str) -> bool:
    """Whether a package from PyPI could be put in an environment of its own; each step has five minutes."""
    pip = [str(root / "venv/bin/pip"), "install", "-q", "--disable-pip-version-check", name]
    try:
        for command in ([sys.executable, "-m", "venv", str(root / "venv")], pip):
            if subprocess.run(command, capture_output=True, check=False, timeout=300).returncode:
                return False
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


def openstack_placement(snapshot: Snapshot, request: Request, nodes: int, seconds: float) -> Outcome:
    """The real openstack-placement from PyPI in an environment of its own, over its WSGI API, one node at a time.

    Its time is the CPU time of the requests alone, without what the fleet takes to be told. After `seconds` of them it
    is asked no more, and the note says how far it came.
    """
    name = "openstack-placement"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not _installed(root, name):
            return Outcome(name, 0.0, None, 0, "not installable here")
        task = {
            "hosts": [[h.free("cpu"), h.free("memory") >> 20] for h in snapshot.hosts],
            "nodes": [[n.demand["cpu"], n.demand["memory"] >> 20] for n in request.nodes[:nodes]],
            "seconds": seconds,
        }
        (root / "task.json").write_text(json.dumps(task))
        (root / "peer.py").write_text(OPENSTACK)
        command = [str(root / "venv/bin/python"), "peer.py", "task.json", str(root / "placement.db")]
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=4 * seconds)
        except subprocess.TimeoutExpired:
            return Outcome(name, 4 * seconds, None, 0, f"not done in {4 * seconds:.0f} s of wall")
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            return Outcome(name, 0.0, None, 0, f"failed: {said[-1][:120]}")
        result = json.loads(done.stdout.strip().splitlines()[-1])
    note = f"{result['asked']} of {nodes} nodes asked for, one after the other"
    return Outcome(name, result["seconds"], result["hosts"], result["placed"], note)
