"""Libraries are found as the loader finds them, without running anything."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mayfly.image_building import elf
from tests.support.compiling import compiled


def listed_by_the_loader(path: Path) -> dict[str, Path]:
    text = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
    return {name: Path(found) for name, found in re.findall(r"(\S+) => (/\S+)", text)}


def test_the_closure_is_what_the_loader_says() -> None:
    folder = Path(sysconfig.get_path("stdlib"), "lib-dynload")
    modules = [path for path in folder.glob("*.so") if path.name.startswith(("_ssl.", "_sqlite3.", "_ctypes.", "_lzma.", "math."))]
    assert modules
    for path in (Path(sys.executable).resolve(), *modules):
        found = elf.closure([path])
        assert found.missing == {}
        assert {name: place.resolve() for name, place in found.libraries.items()} == {
            name: place.resolve() for name, place in listed_by_the_loader(path).items()
        }


def test_a_library_is_found_beside_the_program(tmp_path: Path) -> None:
    inner = compiled(tmp_path / "lib" / "libinner.so", "int inner(void) { return 1; }", "-shared", "-fPIC")
    outer = compiled(
        tmp_path / "lib" / "libouter.so",
        "int inner(void); int outer(void) { return inner(); }",
        "-shared",
        "-fPIC",
        f"-L{inner.parent}",
        "-linner",
    )
    program = compiled(
        tmp_path / "bin" / "program",
        "int outer(void); int main(void) { return outer(); }",
        f"-L{outer.parent}",
        "-louter",
        "-Wl,-rpath,$ORIGIN/../lib",
        f"-Wl,-rpath-link,{inner.parent}",
    )
    libraries = elf.closure([program]).libraries
    assert libraries["libouter.so"].resolve() == outer
    assert libraries["libinner.so"].resolve() == inner


def test_a_library_that_comes_along_is_not_missing_for_one_that_has_no_search_path(tmp_path: Path) -> None:
    # As wheels have them: the module knows where its libraries are, and they know each other by name alone.
    inner = compiled(tmp_path / "lib" / "libinner-1.so", "int inner(void) { return 1; }", "-shared", "-fPIC", "-Wl,-soname,libinner-1.so")
    source = "int inner(void); int outer(void) { return inner(); }"
    outer = compiled(tmp_path / "lib" / "libouter-1.so", source, "-shared", "-fPIC", str(inner), "-Wl,-soname,libouter-1.so")
    renamed = outer.rename(tmp_path / "libouter-1.so")
    assert elf.closure([renamed, inner]).missing == {}
    assert elf.closure([renamed]).missing == {"libinner-1.so": renamed}


def test_a_missing_library_is_named_with_who_wants_it(tmp_path: Path) -> None:
    library = compiled(tmp_path / "libgone.so", "int gone(void) { return 1; }", "-shared", "-fPIC", "-Wl,-soname,libgone.so.7")
    program = compiled(tmp_path / "program", "int gone(void); int main(void) { return gone(); }", str(library))
    assert elf.closure([program]).missing == {"libgone.so.7": program}


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    found = elf.closure([compiled(tmp_path / "program", "int main(void) { return 0; }", "-static")])
    assert (found.interpreter, found.libraries, found.missing) == (None, {}, {})


def test_a_program_for_another_processor_is_refused(tmp_path: Path) -> None:
    program = compiled(tmp_path / "program", "int main(void) { return 0; }")
    data = bytearray(program.read_bytes())
    struct.pack_into("<H", data, 18, 183)
    program.write_bytes(data)
    with pytest.raises(elf.NotForThisMachine, match=r"program: built for another processor .*machine 183"):
        elf.read(program)


@pytest.mark.parametrize("keep", [5, 20, 63, 64, 200, 1000])
def test_a_cut_file_is_refused_or_read_but_never_crashes(tmp_path: Path, keep: int) -> None:
    whole = compiled(tmp_path / "whole", "int main(void) { return 0; }").read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[:keep])
    with pytest.raises(elf.NotForThisMachine):
        elf.read(cut)


def test_text_is_no_elf_file(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "empty").write_bytes(b"")
    assert not elf.is_elf(tmp_path / "script")
    assert not elf.is_elf(tmp_path / "empty")
