"""Child processes under `mayfly-monitor run`: the same output and status as natively."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PYTHON = "/usr/bin/python3"

LINES = {
    "pipeline": ["sh", "-c", "echo a b c | tr ' ' '\\n' | sort -r | cat; exit 5"],
    "background": ["bash", "-c", "for i in $(seq 20); do (echo $i | cat) & done | sort -n; wait; echo done"],
    "substitution": ["bash", "-c", 'x=$(echo $(echo deep)); echo "$x" $(exit 3; echo never); (exit 4); echo $?'],
    "trap": ["bash", "-c", "trap 'echo trapped' USR1; kill -USR1 $$; echo after"],
    "killed": ["sh", "-c", "sh -c 'kill -TERM $$'; echo $?"],
    "signalled": ["sh", "-c", "kill -KILL $$"],
    "environment": ["env", "-i", "A=1", "sh", "-c", "echo $A$B"],
    "subprocess": [
        PYTHON,
        "-c",
        "import subprocess as s; print(s.run(['cat'], input=b'x', capture_output=True).stdout, s.call('exit 9', shell=True))",
    ],
    "missing": [PYTHON, "-c", "import subprocess\ntry: subprocess.run(['/no/such'])\nexcept OSError as error: print(error.errno)"],
    "spawn": [
        PYTHON,
        "-c",
        (
            "import os\nprint(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn('/bin/false', ['false'], {}), 0)[1]))\n"
            "try: os.posix_spawn('/no/such', ['x'], {})\nexcept OSError as error: print(error.errno)"
        ),
    ],
    "fork": [
        PYTHON,
        "-c",
        (
            "import os, threading\nthread = threading.Thread(target=lambda: None); thread.start(); thread.join()\n"
            "pid = os.fork()\nif pid == 0: os._exit(7)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
        ),
    ],
    "exec": [PYTHON, "-c", "import os, sys; os.execvp('sh', ['sh', '-c', 'echo executed; exit 6'])"],
    "pool": [PYTHON, "-c", "import multiprocessing; print(multiprocessing.Pool(2).map(abs, range(-5, 0)))"],
    "perl": ["perl", "-e", 'print 1 + 1, qx(echo hi), `sh -c "exit 3"`, $? >> 8'],
}


def outcome(command: list[str]) -> tuple[int, bytes]:
    finished = subprocess.run(command, capture_output=True, timeout=100, check=False)
    return finished.returncode, finished.stdout


@pytest.mark.parametrize("name", LINES)
def test_children_are_as_natively(monitor: Path, name: str) -> None:
    command = LINES[name]
    assert shutil.which(command[0])
    assert outcome([str(monitor), "run", "--", *command]) == outcome(command)


def test_a_compiler_and_what_it_made_run(monitor: Path, tmp_path: Path) -> None:
    source = tmp_path / "hello.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("made"); return 3; }\n')
    program = tmp_path / "hello"
    assert outcome([str(monitor), "run", "--", "cc", "-o", str(program), str(source)]) == (0, b"")
    assert outcome([str(monitor), "run", "--", str(program)]) == (3, b"made\n")


def test_scripts_run_by_their_interpreter(monitor: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env -S sh -e\necho script $0 $1\nexec ./other\n")
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho other\n")
    for path in (script, other):
        path.chmod(0o755)
    finished = subprocess.run([monitor, "run", "./script", "word"], capture_output=True, cwd=tmp_path, timeout=60, check=False)
    assert finished.stdout == b"script ./script word\nother\n"
