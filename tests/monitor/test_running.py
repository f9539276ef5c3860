"""`mayfly-monitor run`: programs behave as they do natively."""

from __future__ import annotations

import json
import os
import re
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


# What `traced` does until it has children, as strace says it; addresses and numbers of processes are masked.
TRACED = """\
openat(AT_FDCWD, "words.txt", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3
write(3, "one\\t\\"two\\"\\n and more than are eve"..., 39) = 39
lseek(3, 0, SEEK_SET) = 0
read(3, "one\\t\\"two\\"", 9) = 9
pread64(3, "\\t\\"two\\"\\n and more than are ever s"..., 64, 3) = 36
fcntl(3, F_GETFL) = 0x8002 (flags O_RDWR|O_LARGEFILE)
fcntl(3, F_SETFD, FD_CLOEXEC) = 0
openat(AT_FDCWD, "no/such", O_RDONLY|O_DIRECTORY) = -1 ENOENT (No such file or directory)
faccessat(3, "words.txt", R_OK|W_OK) = -1 ENOTDIR (Not a directory)
umask(077) = 022
mkdirat(AT_FDCWD, "made", 0700) = 0
unlinkat(AT_FDCWD, "made", AT_REMOVEDIR) = 0
mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = ADDRESS
mprotect(ADDRESS, 4096, PROT_NONE) = 0
madvise(ADDRESS, 4096, MADV_DONTNEED) = 0
munmap(ADDRESS, 8192) = 0
writev(3, [{iov_base="ab", iov_len=2}, {iov_base="c\\0001", iov_len=3}], 2) = 5
pipe2([4, 5], O_NONBLOCK|O_CLOEXEC) = 0
read(4, ADDRESS, 1) = -1 EAGAIN (Resource temporarily unavailable)
close(5) = 0
socket(AF_INET, SOCK_DGRAM|SOCK_CLOEXEC, 0) = 5
bind(5, {sa_family=AF_INET, sin_port=htons(4321), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
getsockname(5, {sa_family=AF_INET, sin_port=htons(4321), sin_addr=inet_addr("127.0.0.1")}, ADDRESS) = 0
socket(AF_UNIX, SOCK_STREAM, 0) = 6
connect(6, {sa_family=AF_UNIX, sun_path="no/socket"}, 110) = -1 ENOENT (No such file or directory)
epoll_create1(EPOLL_CLOEXEC) = 7
epoll_ctl(7, EPOLL_CTL_ADD, 4, {events=EPOLLIN|EPOLLET, data={u32=5, u64=5}}) = 0
clock_nanosleep(CLOCK_MONOTONIC, 0, {tv_sec=0, tv_nsec=1000}, NULL) = 0
futex(ADDRESS, FUTEX_WAIT_PRIVATE, 2, {tv_sec=0, tv_nsec=1000}) = -1 EAGAIN (Resource temporarily unavailable)
futex(ADDRESS, FUTEX_WAKE_PRIVATE, 1) = 0
rt_sigprocmask(SIG_BLOCK, [USR2], NULL, 8) = 0
rt_sigaction(SIGUSR1, {sa_handler=ADDRESS, sa_mask=[USR1], sa_flags=SA_RESTORER|SA_RESTART}, ADDRESS, 8) = 0
getpid() = FIRST
kill(FIRST, SIGUSR1) = 0
--- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_USER, si_pid=FIRST, si_uid=USER} ---
rt_sigreturn() = 0
rt_sigprocmask(SIG_UNBLOCK, [USR2], NULL, 8) = 0
io_uring_setup(1, NULL) = -1 EPERM (Operation not permitted)
close(-1) = -1 EBADF (Bad file descriptor)
fork() = SECOND
wait4(SECOND, [{WIFEXITED(s) && WEXITSTATUS(s) == 7}], 0, NULL) = SECOND
fork() = THIRD
wait4(THIRD, [{WIFSIGNALED(s) && WTERMSIG(s) == SIGSEGV}], 0, NULL) = THIRD
fork() = FOURTH
kill(FOURTH, SIGTERM) = 0
wait4(FOURTH, [{WIFSIGNALED(s) && WTERMSIG(s) == SIGTERM}], 0, NULL) = FOURTH
exit_group(3) = ?
+++ exited with 3 +++"""
OF_SECOND = """\
execve("/no/program", ["PROGRAM", "again"], ADDRESS /* 1 var */) = -1 ENOENT (No such file or directory)
execve("PROGRAM", ["PROGRAM", "again"], ADDRESS /* 1 var */) = 0
exit_group(7) = ?
+++ exited with 7 +++"""
OF_THIRD = """\
--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---
+++ killed by SIGSEGV +++"""
OF_FOURTH = """\
--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, si_pid=FIRST, si_uid=USER} ---
+++ killed by SIGTERM +++"""


def traces(text: str, first: str) -> dict[str, list[str]]:
    """The lines of each process, those that were interrupted made whole."""
    found: dict[str, list[str]] = {}
    begun: dict[str, str] = {}
    for line in text.splitlines():
        named = re.fullmatch(r"\[pid (\d+)\] (.*)", line)
        pid, said = (named[1], named[2]) if named else (first, line)
        if said.endswith(" <unfinished ...>"):
            begun[pid] = said.removesuffix(" <unfinished ...>")
            continue
        if resumed := re.fullmatch(r"<\.\.\. (\w+) resumed>(.*)", said):
            assert begun[pid].startswith(f"{resumed[1]}("), line
            said = begun.pop(pid) + resumed[2]
        found.setdefault(pid, []).append(said)
    assert not begun
    return found


def test_the_trace_is_as_straces(monitor: Path, program: Callable[..., Path], tmp_path: Path) -> None:
    path = program("traced")
    # The guest's own standard error is not where the trace goes.
    command = f"umask 022; exec {monitor} run --trace -- sh -c 'exec 2>&-; exec {path}'"
    code, out, err = outcome(["sh", "-c", command], cwd=tmp_path)
    assert (code, out) == (3, b"")
    text = err.decode()
    assert re.match(r'execve\("/\S*sh", \["sh", "-c", .*\], /\* \d+ vars \*/\) = 0\n', text), text[:200]
    assert 'write(-1, "begin", 5) = -1 EBADF (Bad file descriptor)\n' in text
    (first,) = re.findall(r"^getpid\(\) = (\d+)$", text.partition('"begin"')[2], re.MULTILINE)
    lines = traces(text.partition('"begin"')[2].partition("\n")[2], first)
    children = [line.removeprefix("fork() = ") for line in lines[first] if line.startswith("fork()")]
    assert len(children) == 3
    assert set(lines) == {first, *children}
    names = dict(zip([first, *children], ["FIRST", "SECOND", "THIRD", "FOURTH"], strict=True))

    def told(pid: str) -> list[str]:
        masked = "\n".join(lines[pid]).replace(str(path), "PROGRAM")
        masked = re.sub(r"0x(?!10\b|8002\b)[0-9a-f]+", "ADDRESS", masked)
        masked = re.sub(r"si_uid=\d+", "si_uid=USER", masked)
        return re.sub(r"\b\d+\b", lambda number: names.get(number[0], number[0]), masked).splitlines()

    assert told(first) == TRACED.splitlines()
    # Between them lies what the C library does at its start.
    second = told(children[0])
    assert second[:2] + second[-2:] == OF_SECOND.splitlines()
    assert told(children[1]) == OF_THIRD.splitlines()
    assert [line for line in told(children[2]) if not line.startswith("pause(")] == OF_FOURTH.splitlines()


def test_a_call_that_hangs_is_seen(monitor: Path) -> None:
    command = [str(monitor), "run", "--trace", "busybox", "sleep", "1000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as running:
        assert running.stderr is not None
        said = b""
        while b"nanosleep(" not in said:
            said += running.stderr.read(4096)
        running.terminate()
        said += running.stderr.read()
        while chunk := running.stderr.read():
            said += chunk
    assert running.returncode == -signal.SIGTERM
    last = said.decode().splitlines()[-3:]
    assert re.search(r"nanosleep\(.*\{tv_sec=1000, tv_nsec=0\}, ", last[0]), last
    assert last[1].startswith("--- SIGTERM {si_signo=SIGTERM, si_code=SI_USER, "), last
    assert last[2] == "+++ killed by SIGTERM +++"


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
        assert b"try `mayfly-monitor --help`" in err
        assert len(err.splitlines()) == 2


def test_each_command_has_help(monitor: Path) -> None:
    for words in (["--help"], ["run", "--help"], ["serve", "--help"], ["syscalls", "--help"], ["doctor", "--help"]):
        code, out, _ = outcome([monitor, *words])
        assert (code, b"Usage" in out) == (0, True)


def test_memory_is_a_size(monitor: Path) -> None:
    code, out, _ = outcome([monitor, "run", "--memory", "64Mi", "busybox", "echo", "hi"])
    assert (code, out) == (0, b"hi\n")
    for size in ("64X", "", "-1", "0", "99999999999G"):
        code, _, err = outcome([monitor, "run", "--memory", size, "true"])
        assert (code, b"--memory" in err) == (2, True), size
