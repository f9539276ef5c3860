"""`mayfly-monitor run`: programs behave as they do natively."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.compiling import compiled

pytestmark = pytest.mark.system


def outcome(command: Sequence[str | Path], *, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, bytes, bytes]:
    finished = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, cwd=cwd, timeout=60, check=False)
    return finished.returncode, finished.stdout, finished.stderr


# Says which file it is, and once more as the program that it executes by the same relative path.
SHOWS_ITSELF = """
#include <stdio.h>
#include <unistd.h>
int main(int count, char **words)
{
    char path[4096];
    long length = readlink("/proc/self/exe", path, sizeof path);
    printf("%.*s\\n", (int)length, path);
    fflush(stdout);
    if (count == 1)
        return 0;
    execl(words[0], words[0], (char *)NULL);
    return 1;
}
"""


@pytest.mark.parametrize("flags", [("-static", "-O1", "-pthread"), ("-O1", "-pthread"), ("-static-pie", "-O1", "-pthread")])
def test_signals_and_threads_are_as_natively(monitor: Path, program: Callable[..., Path], flags: tuple[str, ...]) -> None:
    path = program("signals_and_threads", *flags)
    native = outcome([path])
    inside = outcome([monitor, "run", "--", path])
    assert inside[:2] == native[:2]


def test_a_musl_program_runs(monitor: Path, tmp_path: Path) -> None:
    source = tmp_path / "hello.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 3; }\n')
    for flags in (["-static"], []):
        path = tmp_path / "hello"
        subprocess.run(["musl-gcc", *flags, "-o", str(path), str(source)], check=True)
        assert outcome([monitor, "run", path])[:2] == (3, b"hello\n")


def test_python_with_its_libraries_runs(monitor: Path) -> None:
    code = "import ssl, json, sqlite3, hashlib, decimal, ctypes, socket, threading, asyncio; print(json.dumps(sqlite3.sqlite_version_info))"
    native = outcome(["python3", "-c", code])
    assert native[0] == 0
    assert outcome([monitor, "run", "--", "python3", "-c", code])[:2] == native[:2]


def test_busybox_runs_a_shell_line(monitor: Path) -> None:
    assert outcome([monitor, "run", "--", "busybox", "sh", "-c", "echo hi"]) == (0, b"hi\n", b"")


def test_streams_directory_and_status_are_the_shells(monitor: Path, tmp_path: Path) -> None:
    code = "import os, sys; data = sys.stdin.read(); print(os.getcwd(), data); print('e', file=sys.stderr); sys.exit(42)"
    assert outcome([monitor, "run", "/usr/bin/python3", "-c", code], stdin=b"in", cwd=tmp_path) == (42, f"{tmp_path} in\n".encode(), b"e\n")


@pytest.mark.parametrize("flags", [("-static",), ()])
@pytest.mark.parametrize(("directory", "name"), [("inner", "../inner/program"), ("inner", "./program"), (".", "inner/program")])
def test_a_program_named_by_a_relative_path_knows_its_file(
    monitor: Path, tmp_path: Path, flags: Sequence[str], directory: str, name: str
) -> None:
    """The C library of a static program ends it where the link is no absolute path."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "program.c").write_text(SHOWS_ITSELF)
    subprocess.run(["gcc", *flags, "-o", str(inner / "program"), str(inner / "program.c")], check=True)
    command = [name, "first"]
    expected = f"{inner}/program\n".encode() * 2
    assert outcome(command, cwd=tmp_path / directory) == (0, expected, b"")
    assert outcome([monitor, "run", "--", *command], cwd=tmp_path / directory) == (0, expected, b"")


@pytest.mark.parametrize(("name", "status"), [("/no/such/program", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/usr", 126)])
def test_what_cannot_be_run_has_the_status_of_a_shell(monitor: Path, name: str, status: int) -> None:
    code, out, err = outcome([monitor, "run", name])
    assert (code, out) == (status, b"")
    assert name in err.decode()


def test_another_root_is_the_only_root(monitor: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    busybox = Path("/bin/busybox") if Path("/bin/busybox").exists() else Path("/usr/bin/busybox")
    (root / "bin" / "busybox").write_bytes(busybox.read_bytes())
    (root / "bin" / "busybox").chmod(0o755)
    (root / "inside").write_text("inside\n")
    assert outcome([monitor, "run", "--rootfs", root, "/bin/busybox", "cat", "/inside"]) == (0, b"inside\n", b"")
    code, out, _ = outcome([monitor, "run", "--rootfs", root, "/bin/busybox", "cat", "/../../../etc/passwd"])
    assert (code, out) == (1, b"")


def test_a_program_is_shown_where_it_is_whatever_link_names_it(monitor: Path, tmp_path: Path) -> None:
    (tmp_path / "absolute").symlink_to("/usr/bin/readlink")
    (tmp_path / "relative").symlink_to("absolute")
    for name in ("absolute", "relative"):
        assert outcome([monitor, "run", "--", tmp_path / name, "/proc/self/exe"]) == (0, b"/usr/bin/readlink\n", b"")


def test_a_process_is_named_after_what_was_executed(monitor: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/bin/cat")
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\nread name < /proc/self/comm; echo $name\n")
    script.chmod(0o755)
    commands: list[list[str | Path]] = [
        [tmp_path / "link", "/proc/self/comm"],
        [script],
        ["/bin/sh", "-c", f"{tmp_path}/link /proc/self/comm; {script}"],
    ]
    for command in commands:
        assert outcome([monitor, "run", "--", *command]) == outcome(command)


@pytest.mark.parametrize("entry", [0, 0x7000_0000_0000, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("kind", ["-static", "-static-pie"])
def test_a_program_that_begins_nowhere_dies_as_natively(monitor: Path, tmp_path: Path, entry: int, kind: str) -> None:
    path = compiled(tmp_path / "program", "int main(void) { return 0; }", kind)
    whole = bytearray(path.read_bytes())
    # e_entry of the ELF header, which nobody judges.
    whole[24:32] = entry.to_bytes(8, "little")
    path.write_bytes(whole)
    assert subprocess.run([path], check=False).returncode == -signal.SIGSEGV
    assert subprocess.run([monitor, "run", "--", path], check=False).returncode == -signal.SIGSEGV


def test_no_kvm_says_what_to_do(monitor: Path) -> None:
    code, _, err = outcome([monitor, "run", "--device", "/dev/no-such-kvm", "true"])
    assert code == 125
    assert b"/dev/no-such-kvm" in err


def test_the_trace_names_each_call(monitor: Path) -> None:
    code, _, err = outcome([monitor, "run", "--trace", "busybox", "true"])
    assert code == 0
    assert b"exit_group(0x0" in err or b"brk(" in err


def test_the_table_is_printed_for_people_and_programs(monitor: Path) -> None:
    code, out, _ = outcome([monitor, "syscalls", "--json"])
    assert code == 0
    table = {row["name"]: row for row in json.loads(out)}
    assert table["read"]["level"] == "forwarded"
    assert table["ptrace"]["level"] == "refused"
    assert len(table) > 350
    code, out, _ = outcome([monitor, "syscalls"])
    assert code == 0
    assert b"clock_nanosleep" in out


def test_a_reader_that_has_seen_enough_is_no_error(monitor: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        for words in (["syscalls"], ["syscalls", "--json"], ["doctor"], ["--help"]):
            done = subprocess.run([monitor, *words], stdout=closed, stderr=subprocess.PIPE, check=False)
            assert (done.returncode, done.stderr) == (0, b""), words


def test_wrong_usage_is_status_2(monitor: Path) -> None:
    for words in ([], ["nonsense"], ["run"], ["serve", "--bundle", "x"], ["run", "--wrong"]):
        code, _, err = outcome([monitor, *words])
        assert code == 2
        assert b"Usage" in err
