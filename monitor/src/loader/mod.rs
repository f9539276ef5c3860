//! From a path to a program ready to run: its file, its interpreter, its segments, its first stack.

pub mod elf;
pub mod stack;

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use crate::errno::Errno;
use crate::memory::access;
use crate::memory::mapping::MappedFile;
use crate::memory::space::Space;
use crate::vm::layout::{LARGE_PAGE, MMAP_TOP, PAGE, PROGRAM_BASE, VDSO, page_up};

/// Deepest chain of `#!` interpreters (as the kernel's).
const SCRIPT_DEPTH: usize = 4;
/// Longest `#!` line (BINPRM_BUF_SIZE).
const SCRIPT_LINE: usize = 255;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {source}")]
    Open { path: String, source: Errno },
    #[error("{path}: wants {interpreter}, which cannot be opened: {source}")]
    Interpreter {
        path: String,
        interpreter: String,
        source: Errno,
    },
    #[error("{path}: not a program that Linux on x86-64 can run: {why}")]
    Format { path: String, why: &'static str },
    #[error("{path}: a program for another processor ({machine}), not x86-64")]
    Machine { path: String, machine: String },
    #[error("{path}: cannot be mapped: {source}")]
    Map { path: String, source: Errno },
    #[error("the arguments and the environment do not fit the stack")]
    Arguments,
}

impl LoadError {
    /// The status a shell gives: 127 not found, 126 not runnable.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Open {
                source: Errno::NOENT | Errno::NOTDIR,
                ..
            }
            | Self::Interpreter {
                source: Errno::NOENT | Errno::NOTDIR,
                ..
            } => 127,
            _ => 126,
        }
    }
}

/// A program in memory: where it starts, what the auxiliary vector says about it.
pub struct Loaded {
    pub entry: u64,
    pub stack_pointer: u64,
    /// The auxiliary vector, for /proc/self/auxv.
    pub auxiliary: Vec<u8>,
    /// The absolute path of the file that runs (an interpreter, for a script).
    pub exe: CString,
    /// The path that was asked for (of the script itself), after which the process is named.
    pub named: CString,
    pub args: Vec<CString>,
}

/// A program's file, and what /proc says of its mappings.
pub struct Opened {
    pub fd: OwnedFd,
    pub shown: MappedFile,
}

/// What to run.
pub struct Request<'a> {
    pub path: &'a CStr,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub uid: u32,
    pub gid: u32,
}

/// Whether a program could be loaded, as execve(2) answers: nothing is mapped.
pub fn check(path: &CStr, open: &dyn Fn(&CStr) -> Result<Opened, Errno>) -> Result<(), Errno> {
    let mut path = path.to_owned();
    for _ in 0..=SCRIPT_DEPTH {
        let file = open(&path)?;
        let Some((interpreter, _)) = script(&file.fd) else {
            let image = elf::Image::read(&file.fd, "").map_err(|error| match error {
                LoadError::Open { source, .. } => source,
                _ => Errno(libc::ENOEXEC),
            })?;
            return match &image.interpreter {
                Some(interpreter) => open(interpreter).map(|_| ()),
                None => Ok(()),
            };
        };
        path = interpreter;
    }
    Err(Errno::LOOP)
}

/// Loads a program into a fresh address space. `open` opens a guest path for reading, and checks that it may be executed.
pub fn load(
    space: &mut Space,
    request: &Request<'_>,
    open: &dyn Fn(&CStr) -> Result<Opened, Errno>,
) -> Result<Loaded, LoadError> {
    let opened = |path: &CStr| {
        open(path).map_err(|source| LoadError::Open {
            path: path.to_string_lossy().into_owned(),
            source,
        })
    };
    let wanted = |path: &CStr, interpreter: &CStr| {
        open(interpreter).map_err(|source| LoadError::Interpreter {
            path: path.to_string_lossy().into_owned(),
            interpreter: interpreter.to_string_lossy().into_owned(),
            source,
        })
    };
    let mut path = request.path.to_owned();
    let mut args = request.args.clone();
    let mut file = opened(&path)?;
    for _ in 0..SCRIPT_DEPTH {
        let Some((interpreter, argument)) = script(&file.fd) else {
            break;
        };
        let mut rest = args.split_off(1.min(args.len()));
        args = vec![interpreter.clone()];
        args.extend(argument);
        file = wanted(&path, &interpreter)?;
        args.push(path);
        args.append(&mut rest);
        path = interpreter;
    }
    let name = path.to_string_lossy().into_owned();
    // As the kernel shows it: where the file is, whatever directory or link it was named by.
    let exe = match file.shown.name.as_slice() {
        b"" => path.clone(),
        name => CString::new(name).unwrap_or_else(|_| path.clone()),
    };
    let program = elf::Image::read(&file.fd, &name)?;
    let base = match program.large_code() {
        _ if !program.relocatable => 0,
        Some(code) => (PROGRAM_BASE + code).next_multiple_of(LARGE_PAGE) - code,
        None => PROGRAM_BASE,
    };
    let mapped = program.map(space, &file, base, &name)?;
    space.set_heap(page_up(mapped.end).unwrap_or(mapped.end) + PAGE);
    let mut entry = mapped.entry;
    let mut interpreter_base = 0;
    if let Some(interpreter) = &program.interpreter {
        let name = interpreter.to_string_lossy().into_owned();
        let file = wanted(&path, interpreter)?;
        let linker = elf::Image::read(&file.fd, &name)?;
        interpreter_base = (MMAP_TOP - linker.span()) & !(PAGE - 1);
        entry = linker.map(space, &file, interpreter_base, &name)?.entry;
    }
    let top = space
        .map_stack(program.runs_stack)
        .map_err(|source| LoadError::Map {
            path: name.clone(),
            source,
        })?;
    map_vdso(space).map_err(|source| LoadError::Map {
        path: name.clone(),
        source,
    })?;
    let facts = stack::Facts {
        headers: mapped.headers,
        header_count: program.header_count,
        entry: mapped.entry,
        interpreter_base,
        uid: request.uid,
        gid: request.gid,
        vdso: VDSO,
        path: &path,
    };
    let (stack_pointer, auxiliary) =
        stack::build(top, &args, &request.env, &facts).map_err(|_| LoadError::Arguments)?;
    Ok(Loaded {
        entry,
        stack_pointer,
        auxiliary,
        exe,
        named: request.path.to_owned(),
        args,
    })
}

/// Maps the vDSO, which the program may read and execute.
fn map_vdso(space: &mut Space) -> Result<(), Errno> {
    const READ_WRITE: u64 = 3;
    const READ_EXECUTE: u64 = 5;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    space.map(VDSO, PAGE, READ_WRITE, flags, None)?;
    access::write_bytes(VDSO, crate::clock::vdso())?;
    space.protect(VDSO, PAGE, READ_EXECUTE).map(|_| ())
}

/// The interpreter and its argument, if the file starts with `#!`.
fn script(file: &OwnedFd) -> Option<(CString, Option<CString>)> {
    let mut line = [0u8; SCRIPT_LINE];
    let length = elf::read_at(file, &mut line, 0).ok()?;
    let line = line[..length].strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let line = line.trim_ascii();
    let end = line.iter().position(is_blank).unwrap_or(line.len());
    let argument = line[end..].trim_ascii();
    let argument = if argument.is_empty() {
        None
    } else {
        Some(CString::new(argument).ok()?)
    };
    Some((CString::new(&line[..end]).ok()?, argument))
}
