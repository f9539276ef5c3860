//! `mayfly-monitor run`: a program of this machine, once, in a virtual machine, as a shell would run it.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::errno::Errno;
use crate::fs::{Access, At, Builder};
use crate::guest;
use crate::ledger::Ledger;
use crate::loader::{self, LoadError};
use crate::memory::space::Space;
use crate::process::{Identity, Parts, Process};
use crate::ready::Ready;
use crate::signals::{Action, Actions, SIG_IGN, host};
use crate::syscalls::sockets::Sockets;
use crate::task::Task;
use crate::vm::kvm::{Device, KvmError};

/// What the command line asks for.
pub struct Options {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub rootfs: Option<PathBuf>,
    pub device: String,
    /// Bytes the guest may commit.
    pub memory: u64,
    pub trace: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("memory: {0}")]
    Memory(Errno),
    #[error("{path}: {source}")]
    Root { path: String, source: Errno },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{0:?} holds a NUL byte")]
    Argument(OsString),
}

impl RunError {
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Load(error) => error.exit_status(),
            _ => 125,
        }
    }
}

fn c_string(text: &OsString) -> Result<CString, RunError> {
    CString::new(text.as_bytes()).map_err(|_| RunError::Argument(text.clone()))
}

/// Runs the program; returns only if it could not be started.
pub fn run(options: &Options) -> Result<std::convert::Infallible, RunError> {
    guest::prepare_process();
    let device = Arc::new(Device::open(&options.device)?);
    let vm = device.create_vm()?;
    let mut space = Space::new(vm, options.memory).map_err(RunError::Memory)?;
    let root = options.rootfs.as_deref().unwrap_or(Path::new("/"));
    let root_error = |source| RunError::Root { path: root.display().to_string(), source };
    let mut builder = Builder::new(root, Access::ReadWrite).map_err(root_error)?.with_devices();
    builder = builder.proc().and_then(Builder::dev).map_err(root_error)?;
    let files = builder.build();
    // SAFETY: identifiers have no preconditions.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut args = vec![c_string(&options.program)?];
    for arg in &options.args {
        args.push(c_string(arg)?);
    }
    let env = std::env::vars_os()
        .map(|(name, value)| {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            c_string(&entry)
        })
        .collect::<Result<Vec<_>, _>>()?;
    if options.rootfs.is_some() {
        guest::early(&files).change_directory(At::cwd(c"/")).map_err(root_error)?;
    }
    let path = find(&options.program, options.rootfs.as_deref());
    let request = loader::Request { path: &c_string(&path.into_os_string())?, args, env: env.clone(), uid, gid };
    let loaded = loader::load(&mut space, &request, &|path| guest::open_program(guest::early(&files), path))?;
    let mut actions: Actions = [Action::default(); 65];
    for (signal, action) in actions.iter_mut().enumerate().skip(1) {
        if host::is_ignored(signal) {
            action.handler = SIG_IGN;
        }
    }
    let process = Arc::new(Process::new(Parts {
        device,
        space,
        actions,
        files,
        sockets: Sockets::new(None),
        ready: Arc::new(Ready::new(None)),
        ledger: Ledger::allocate().map_err(RunError::Memory)?,
        identity: Identity { uid, gid, exe: loaded.exe.clone(), args: loaded.args.clone(), env, auxiliary: loaded.auxiliary },
        memory_limit: options.memory,
        trace: options.trace,
        contained: false,
    }));
    let vcpu = process.take_vcpu().map_err(RunError::Memory)?;
    let mut task = Task::new(process, vcpu, host::inherited_mask());
    task.start_at(loaded.entry, loaded.stack_pointer);
    task.run();
    crate::lifecycle::end_process(0)
}

/// The program's path, looked up in PATH like a shell does.
fn find(program: &OsString, rootfs: Option<&Path>) -> PathBuf {
    let given = PathBuf::from(program);
    if program.as_bytes().contains(&b'/') {
        return given;
    }
    let search = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    search
        .as_bytes()
        .split(|byte| *byte == b':')
        .map(|part| Path::new(&OsString::from_vec(part.to_vec())).join(&given))
        .find(|candidate| {
            let on_host = match rootfs {
                Some(root) => root.join(candidate.strip_prefix("/").unwrap_or(candidate)),
                None => candidate.clone(),
            };
            std::fs::metadata(on_host).is_ok_and(|found| {
                use std::os::unix::fs::PermissionsExt;
                found.is_file() && found.permissions().mode() & 0o111 != 0
            })
        })
        .unwrap_or(given)
}
