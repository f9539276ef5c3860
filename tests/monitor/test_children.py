"""Child processes of a served function: they work as natively, are counted together, and end with their instance."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event

import pytest

from tests.support.serving import PATIENCE, Serve, make_bundle

pytestmark = pytest.mark.system

PYTHON = os.path.realpath(sys.executable)
PREFORK = Path(__file__).parent / "programs" / "prefork.py"
FORKING = Path(__file__).parent / "programs" / "forking.py"
# Processes and threads of an instance (src/kin.rs).
TASKS = 256


@contextmanager
def served(directory: Path, args: Sequence[str], contract: str = "stdin", memory_bytes: int = 256 << 20) -> Iterator[Serve]:
    """A function whose image is this machine's own tree."""
    bundle = make_bundle(directory / "bundle", Path("/"), args, contract=contract, memory_bytes=memory_bytes)
    with Serve(bundle, directory, "--log-limit", "1000000") as serve:
        serve.wait_for("parked")
        yield serve


def prefork(directory: Path, workers: int, mode: str) -> AbstractContextManager[Serve]:
    return served(directory, [PYTHON, "-c", PREFORK.read_text(), str(workers), mode], contract="http")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        Event().wait(0.005)


def descendants(serve: Serve) -> set[int]:
    """All processes below `serve`, by the kernel's lists."""
    found: set[int] = set()
    open_ends = [serve.process.pid]
    while open_ends:
        pid = open_ends.pop()
        try:
            lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:
            continue
        below = {int(word) for text in lists for word in text.split()} - found
        found |= below
        open_ends += below
    return found


def living(pids: set[int]) -> set[int]:
    """Those that run a program still."""
    running = set()
    for pid in pids:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except OSError:
            continue
        # The first process of the namespace is none of an instance's.
        if rest.split()[0] != "Z" and not name.endswith("(mayfly-init"):
            running.add(pid)
    return running


@pytest.mark.parametrize(
    ("script", "snapshot", "output"),
    [
        ('read x; echo "got $x"; printf "b\\na\\n" | sort | tr a-z A-Z; cat', True, b"got one\nA\nB\ntwo\n"),
        # The first to read is a child.
        ("cat | tr a-z A-Z", False, b"ONE\nTWO\n"),
        # The first process goes on as another program, before it is ready, after it had children.
        ("mkdir -p /tmp/x; rmdir /tmp/x; exec cat", True, b"one\ntwo\n"),
        # And with the call.
        ("read x; exec cat", True, b"two\n"),
        ('x=$(cat); (exit 7); echo $? "${#x}"; sh -c "exit 9" || echo $?', False, b"7 7\n9\n"),
        ("read x; trap 'echo told' USR1; (kill -USR1 $$); wait; ulimit -n", True, b"told\n1024\n"),
        ("read x; sleep 1000 & kill %1; wait %1; echo $?", True, b"143\n"),
        ("set -m; read x; sleep 1000 & kill -KILL -$!; wait $!; echo $?", True, b"137\n"),
        ("read x; cd /usr/bin; ./readlink /proc/self/exe; exec ./readlink /proc/self/exe", True, b"/usr/bin/readlink\n" * 2),
        # Names are found by children, too: the one everybody knows, and the machine's own.
        ("read x; cat /etc/hosts /etc/hosts | grep -c localhost; getent hosts $(uname -n) | wc -l; wc -l < /etc/hosts", True, b"4\n1\n2\n"),
        # What goes on in the background does not hold the answer back.
        ("read x; sleep 1000 & echo done", True, b"done\n"),
    ],
)
def test_a_shell_calls_other_programs(tmp_path: Path, script: str, snapshot: bool, output: bytes) -> None:
    with served(tmp_path, ["/bin/bash", "-c", script]) as serve:
        ready = serve.wait_for("ready")
        assert (ready["snapshot"] is not None) == snapshot
        if not snapshot:
            assert re.fullmatch(r"child processes: \d+", ready["reason"])
        for number in range(2):
            answer = serve.call(f"c-{number}", b"one\ntwo\n")
            assert (answer.status, answer.body) == (200, output)
        assert serve.ended("c-1")["cause"] == "exited"


@pytest.mark.parametrize("kin", ["none", "kin"])
def test_a_child_of_each_connection_answers(tmp_path: Path, kin: str) -> None:
    with served(tmp_path, [PYTHON, "-c", FORKING.read_text(), kin], contract="http") as serve:
        assert (serve.wait_for("ready")["snapshot"] is not None) == (kin == "none")
        for number in range(3):
            answer = serve.call(f"c-{number}", path=f"/call-{number}")
            assert (answer.status, answer.body, answer.whole) == (200, f"/CALL-{number}".encode(), True)
            assert serve.ended(f"c-{number}")["cause"] == "closed"


def test_the_first_process_decides_on_the_answer(tmp_path: Path) -> None:
    with served(tmp_path, ["/bin/bash", "-c", "read x; (sleep 1000; echo late) & echo soon; exit 3"]) as serve:
        answer = serve.call("c", b"x\n")
        assert (answer.status, answer.headers["x-mayfly-failure"]) == (500, "exit status 3")


PROGRAMS = {
    "vfork": "import subprocess as s; print(s.run(['tr','a-z','A-Z'],input=d,capture_output=True,text=True).stdout, end='')",
    "missing": """
import subprocess as s
try: s.run(['/no/such/program'])
except FileNotFoundError as e: print(e.filename)""",
    "environment": """
import subprocess as s
print(s.run(['env'], env={'LD_PRELOAD': 'x', 'A': 'b'}, capture_output=True, text=True).stdout, end='')""",
    "pool": "import multiprocessing as m; print(m.get_context('fork').Pool(3).map(str.upper, d.split()))",
    "shared": """
import mmap, os
m = mmap.mmap(-1, 4096)
if os.fork() == 0: m[:2] = b'ok'; os._exit(4)
print(os.waitstatus_to_exitcode(os.wait()[1]), m[:2])""",
    "signals": """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
p = os.fork()
if p == 0: os._exit(5)
i = signal.sigwaitinfo([signal.SIGCHLD]); print(i.si_pid == p, i.si_status, os.waitid(os.P_PID, p, os.WEXITED).si_status)
p = os.fork()
if p == 0: signal.pause()
f = os.pidfd_open(p); signal.pidfd_send_signal(f, signal.SIGTERM); print(os.waitid(os.P_PIDFD, f, os.WEXITED).si_status)
p = os.fork()
if p == 0: signal.signal(signal.SIGPIPE, signal.SIG_DFL); r, w = os.pipe(); os.close(r); os.write(w, b'x')
print(os.waitstatus_to_exitcode(os.wait()[1]))""",
    "outside": """
import os
for pid in (1, os.getppid() or 1, 2):
    try: os.kill(pid, 0); print('reached', pid)
    except ProcessLookupError: print('none')
try: os.pidfd_open(1); print('reached')
except ProcessLookupError: print('none')""",
    "threads": """
import os, threading
e = threading.Event(); threading.Thread(target=e.wait, daemon=True).start()
if os.fork() == 0: os.execv('/bin/echo', ['echo', 'child'])
os.wait(); t = threading.Thread(target=lambda: os.execv('/bin/echo', ['echo', 'replaced'])); t.start(); t.join()""",
}
OUTPUTS = {
    "vfork": "ONE TWO\n",
    "missing": "/no/such/program\n",
    "environment": "LD_PRELOAD=x\nA=b\n",
    "pool": "['ONE', 'TWO']\n",
    "shared": "4 b'ok'\n",
    "signals": "True 5 5\n15\n-13\n",
    "outside": "none\nnone\nnone\nnone\n",
    "threads": "child\nreplaced\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_has_child_processes(tmp_path: Path, name: str) -> None:
    program = f"import sys; d = sys.stdin.read()\n{PROGRAMS[name]}"
    with served(tmp_path, [PYTHON, "-c", program]) as serve:
        answer = serve.call("c", b"one two\n")
        assert (answer.status, answer.body.decode()) == (200, OUTPUTS[name]), serve.ended("c")


@pytest.mark.parametrize(("workers", "mode"), [(1, "accept"), (1, "select"), (3, "epoll")])
def test_a_prefork_server_is_booted_for_each_call(tmp_path: Path, workers: int, mode: str) -> None:
    with prefork(tmp_path, workers, mode) as serve:
        ready = serve.wait_for("ready")
        assert (ready["snapshot"], ready["reason"]) == (None, f"child processes: {workers}")
        bodies = [serve.call(f"c-{number}", path="/pids").body.split() for number in range(4)]
        assert all(len(body) == 2 and body[0] != body[1] for body in bodies)
        assert len({body[0] for body in bodies}) == 4
        assert {serve.ended(f"c-{number}")["cause"] for number in range(4)} == {"closed"}
        # Its worker holds the connection: its end is the answer's.
        assert serve.call("exit", path="/exit").body == b"bye"
        assert serve.call("killed", path="/kill").status == 0
        fault = serve.call("fault", path="/fault")
        assert fault.status == 0
        message = serve.ended("fault")["message"]
        assert re.match(r"process \d+: signal 11 \(SIGSEGV\) at 0x[0-9a-f]+, address 0x10; last system calls: ", message)
        assert re.search(r" [a-z0-9_]+=-?(\d+|0x[0-9a-f]+)", message)


def test_all_processes_end_with_the_answer(tmp_path: Path) -> None:
    with prefork(tmp_path, 2, "accept") as serve:
        for number, path in enumerate(["/daemon", "/", "/daemon"]):
            assert serve.call(f"c-{number}", path=path).status == 200
            serve.ended(f"c-{number}")
        serve.command(command="pool", parked=0)
        # What is parked now has three processes each; nothing else is left.
        until(lambda: len(living(descendants(serve))) % 3 == 0)
        assert serve.call("last", path="/daemon").status == 200
        serve.ended("last")
        until(lambda: len(living(descendants(serve))) % 3 == 0)


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_all_processes_end_with_serve(tmp_path: Path, signal: str) -> None:
    with prefork(tmp_path, 2, "accept") as serve:
        with serve.connect() as connection:
            connection.sendall(b"MAYFLY/1 stuck 60000 -\nGET /stuck HTTP/1.1\r\nHost: f\r\n\r\n")
            serve.wait_for("accepted")
            until(lambda: len(living(descendants(serve))) >= 4)
            pids = descendants(serve)
        if signal == "KILL":
            serve.process.kill()
        else:
            serve.command(command="drain")
        until(lambda: not living(pids))


def test_a_kontain_function_has_children_once_it_is_called(tmp_path: Path) -> None:
    script = (
        'exec 3< /.request; x=$(cat <&3 | wc -c); printf \'{"Status": 201, "Data": "%s"}\' "$(echo $((x > 10)) | base64)" | cat > /.reply'
    )
    with served(tmp_path, ["/bin/bash", "-c", script], contract="kontain") as serve:
        answer = serve.call("c", b"body")
        assert (answer.status, answer.body) == (201, b"1\n"), serve.ended("c")


def test_a_kontain_functions_first_process_opens_the_request(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", Path("/"), ["/bin/bash", "-c", "cat /.request || exit 5"], contract="kontain")
    with Serve(bundle, tmp_path) as serve:
        failed = serve.wait_for("failed")
        assert "must first be opened by the function's first process" in failed["output"]


def output(command: Sequence[str | Path]) -> list[str]:
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert finished.returncode == 7, finished
    return finished.stdout.decode().splitlines()


def test_processes_are_what_they_are_natively(monitor: Path, program: Callable[..., Path], tmp_path: Path) -> None:
    path = program("processes")
    native = output([path])
    assert len(native) > 40
    assert output([monitor, "run", "--", path]) == native
    root = tmp_path / "image"
    root.mkdir()
    (root / "program").write_bytes(path.read_bytes())
    (root / "program").chmod(0o755)
    bundle = make_bundle(tmp_path / "bundle", root, ["/program"], contract="stdin", env=["STATUS=0"])
    with Serve(bundle, tmp_path) as serve:
        assert serve.wait_for("ready")["snapshot"] is not None
        answer = serve.call("c")
        assert (answer.status, answer.body.decode().splitlines()) == (200, native), serve.ended("c")


def test_a_fork_bomb_ends_at_the_limit_and_harms_no_neighbour(tmp_path: Path) -> None:
    bomb = "import os, sys, time\nsys.stdin.read()\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.01)"
    bad_place, good_place = tmp_path / "bad", tmp_path / "good"
    bad_place.mkdir()
    good_place.mkdir()
    bad_function = served(bad_place, [PYTHON, "-c", bomb], memory_bytes=16 << 30)
    with bad_function as bad, served(good_place, ["/bin/cat"]) as good:
        bad.command(command="pool", parked=0)
        most = 0
        with bad.connect() as connection:
            connection.sendall(b"MAYFLY/1 bomb 60000 -\nPOST / HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n")
            bad.wait_for("accepted")
            for number in range(40):
                most = max(most, len(living(descendants(bad))))
                assert good.call(f"g-{number}", b"fine").body == b"fine"
            until(lambda: len(descendants(bad)) > TASKS // 2)
        # The caller goes, and all of them.
        assert bad.ended("bomb")["cause"] == "abandoned"
        # The walk is no snapshot, and sees the namespace's first process and what is parked, too.
        assert most <= TASKS + 16
        # One is parked still.
        until(lambda: len(living(descendants(bad))) <= 1)


def test_memory_is_counted_with_the_children(tmp_path: Path) -> None:
    program = """
import mmap, os, sys
sys.stdin.read()
def take(mib):
    try: taken = mmap.mmap(-1, mib << 20, mmap.MAP_PRIVATE)
    except OSError as e: return e.errno
    for at in range(0, mib << 20, 4096): taken[at] = 1
    return taken
r, w = os.pipe()
p = os.fork()
if p == 0:
    kept = take(130); os.write(w, b'%r' % isinstance(kept, mmap.mmap)); os.pause() if hasattr(os, 'pause') else __import__('signal').pause()
print(os.read(r, 10), take(130)); os.kill(p, 9); os.wait(); print(isinstance(take(130), mmap.mmap))
"""
    with served(tmp_path, [PYTHON, "-c", program], memory_bytes=256 << 20) as serve:
        assert serve.call("c").body == b"b'True' 12\nTrue\n"
