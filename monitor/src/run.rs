//! `mayfly-monitor run`: a program of this machine, once, in a virtual machine, as a shell would run it.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bundle::Contract;
use crate::clock;
use crate::errno::Errno;
use crate::fs::{Access, At, Builder, PassedNamespace};
use crate::ledger::Ledger;
use crate::loader::{self, LoadError};
use crate::memory::space::Space;
use crate::network::place::Place;
use crate::network::sockets::{PassedSockets, Sockets};
use crate::process::{Identity, Member, Parts, Process};
use crate::ready::Ready;
use crate::signals::{Action, Actions, SIG_IGN, host};
use crate::task::Task;
use crate::trace::{self, Tracer};
use crate::vm::kvm::{Device, KvmError};
use crate::{guest, sys};

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
    Limit(#[from] crate::jail::LimitError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("memory: {0}")]
    Memory(Errno),
    #[error("the directory for sockets, mayfly-UID below XDG_RUNTIME_DIR or the temporary directory: {0}")]
    Sockets(Errno),
    #[error("the trace: {0}")]
    Trace(Errno),
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

/// How `run` was started; the same for all processes that come of it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Launch {
    pub rootfs: Option<Vec<u8>>,
    pub device: String,
    pub memory: u64,
    /// Where calls are told.
    pub trace: Option<trace::Passed>,
    /// Begins the names of the sockets of all these processes.
    pub socket_secret: u64,
}

impl Launch {
    fn root(&self) -> &Path {
        self.rootfs
            .as_deref()
            .map_or(Path::new("/"), |root| Path::new(OsStr::from_bytes(root)))
    }
}

/// What a process of an instance finds behind an exec of the monitor. Descriptors by their numbers, which stay open over it.
#[derive(Serialize, Deserialize)]
pub struct Inside {
    pub device: RawFd,
    /// The memory file of the ledger, and this process's row in its table.
    pub ledger: RawFd,
    pub row: usize,
    pub files: PassedNamespace,
    pub sockets: PassedSockets,
    /// Whether the call may be accepted here.
    pub awaits_call: bool,
    pub memory: u64,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Inside {
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut known = vec![self.device, self.ledger];
        known.extend(self.files.descriptors());
        known.extend(self.sockets.descriptors());
        known
    }
}

/// A program to begin with: the one of the command line, or one that the guest executes.
#[derive(Serialize, Deserialize)]
pub struct Image {
    /// How `run` was started; `None` in an instance.
    pub launch: Option<Launch>,
    /// What it needs in an instance.
    pub inside: Option<Inside>,
    /// The program of the command line, not one that the guest executes.
    pub first: bool,
    /// A path of the guest.
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Rust's start-up ignores SIGPIPE, so this cannot be asked of the kernel.
    pub ignores_pipe: bool,
    /// The guest's soft limit of descriptors.
    pub open_files: i32,
    /// The limits that it has set.
    pub limits: Vec<[u64; 2]>,
    pub clock: clock::Handover,
}

impl Image {
    /// Writes it to a memory file that an exec leaves open.
    pub fn save(&self) -> Result<OwnedFd, Errno> {
        let bytes = postcard::to_stdvec(self).map_err(|_| Errno(libc::E2BIG))?;
        let file = crate::snapshot::image::create_empty(c"mayfly-exec")?;
        let mut writer = File::from(file);
        writer.write_all(&bytes)?;
        crate::syscalls::exec::passed_on(&writer.into())
    }

    fn load(fd: i32) -> Result<Self, Errno> {
        // The descriptor that `save` made for this process; a wrong number fails to read.
        let mut file = File::from(crate::fs::descriptors::take_up(fd));
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        postcard::from_bytes(&bytes).map_err(|_| Errno::INVAL)
    }
}

/// Runs the program of the command line; returns only if it could not be started.
pub fn run(options: &Options) -> Result<Infallible, RunError> {
    crate::jail::enough_descriptors()?;
    let limit = guest::prepare_process();
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
    let path = find(&options.program, options.rootfs.as_deref());
    let mut secret = [0; 8];
    sys::random(&mut secret).map_err(RunError::Memory)?;
    let launch = Launch {
        rootfs: options.rootfs.as_ref().map(|root| {
            std::fs::canonicalize(root)
                .unwrap_or_else(|_| root.clone())
                .into_os_string()
                .into_vec()
        }),
        device: options.device.clone(),
        memory: options.memory,
        trace: match options.trace {
            true => Some(Tracer::begin().map_err(RunError::Trace)?),
            false => None,
        },
        socket_secret: u64::from_ne_bytes(secret),
    };
    let enters = options.rootfs.is_some();
    let path = c_string(&path.into_os_string())?;
    clock::observe();
    let image = Image {
        launch: None,
        inside: None,
        first: true,
        path,
        args,
        env,
        ignores_pipe: false,
        open_files: limit,
        limits: Vec::new(),
        clock: clock::hand_over(),
    };
    start(image, launch, enters)
}

/// Goes on as the program that a guest executed.
pub fn execute(fd: i32) -> Result<Infallible, RunError> {
    let mut image = Image::load(fd).map_err(RunError::Memory)?;
    if image.inside.is_none() {
        guest::prepare_process();
    } else {
        // The limits are those of the instance.
        guest::prepare_signals();
    }
    clock::take_over(&image.clock);
    crate::fs::descriptors::set_limit(u64::from(image.open_files.unsigned_abs()));
    crate::rlimits::take_over(&image.limits);
    if image.ignores_pipe {
        // The disposition that the program before left.
        sys::processes::reset_signal(libc::SIGPIPE, true);
    }
    match (image.launch.take(), image.inside.take()) {
        (_, Some(inside)) => go_on(image, inside),
        (Some(launch), None) => start(image, launch, false),
        (None, None) => Err(RunError::Memory(Errno::INVAL)),
    }
}

/// Goes on as another program in the child of a vfork in an instance.
fn go_on(image: Image, inside: Inside) -> Result<Infallible, RunError> {
    let passed = inside.descriptors();
    crate::descent::keep_over_exec(&passed, false).map_err(RunError::Memory)?;
    sys::set_undumpable().map_err(RunError::Memory)?;
    let ledger = Ledger::map(inside.ledger).map_err(RunError::Memory)?;
    let device = Arc::new(Device::take_up(inside.device)?);
    let mut space = Space::new(device.create_vm()?, inside.memory).map_err(RunError::Memory)?;
    let files = inside.files.take_up();
    let request = loader::Request {
        path: &image.path,
        args: image.args,
        env: image.env.clone(),
        uid: inside.uid,
        gid: inside.gid,
    };
    let loaded = loader::load(&mut space, &request, &|path| {
        guest::open_program(guest::early(&files), path)
    })?;
    crate::serve::set_name(&loaded.named);
    let sockets = inside.sockets.take_up();
    let ready = Ready::new(inside.awaits_call.then_some(Contract::Http));
    for fd in sockets.listeners(&files.open_descriptors()) {
        ready.listening(fd);
    }
    let process = Arc::new(Process::new(Parts {
        device,
        space,
        actions: inherited_actions(),
        files,
        sockets,
        ready: Arc::new(ready),
        ledger,
        identity: Identity {
            uid: inside.uid,
            gid: inside.gid,
            groups: inside.groups,
            exe: loaded.exe,
            named: loaded.named,
            args: loaded.args,
            env: image.env,
            auxiliary: loaded.auxiliary,
        },
        memory_limit: inside.memory,
        trace: None,
        contained: true,
        reseeding: Vec::new(),
        member: Some(Member::new(inside.row, inside.ledger)),
        launch: None,
    }));
    let mask = host::inherited_mask();
    crate::descent::settle(&process, inside.row, sys::parent_id());
    let mut vcpu = process.take_vcpu().map_err(RunError::Memory)?;
    clock::begin(&mut vcpu);
    let mut task = Task::new(process, vcpu, mask);
    task.start_at(loaded.entry, loaded.stack_pointer);
    task.run();
    crate::lifecycle::end_process(0)
}

/// The dispositions that a program finds: what is ignored stays so over an exec.
fn inherited_actions() -> Actions {
    let mut actions: Actions = [Action::default(); 65];
    for (signal, action) in actions.iter_mut().enumerate().skip(1) {
        if host::is_ignored(signal) {
            action.handler = SIG_IGN;
        }
    }
    actions
}

fn start(image: Image, launch: Launch, enters_root: bool) -> Result<Infallible, RunError> {
    let Image {
        path,
        args,
        env,
        first,
        ..
    } = image;
    let tracer = launch.trace.map(Tracer::take_up);
    let device = Arc::new(Device::open(&launch.device)?);
    let vm = device.create_vm()?;
    let mut space = Space::new(vm, launch.memory).map_err(RunError::Memory)?;
    let root_error = |source| RunError::Root {
        path: launch.root().display().to_string(),
        source,
    };
    let mut builder = Builder::new(launch.root(), Access::ReadWrite)
        .map_err(root_error)?
        .with_devices();
    builder = builder.proc().map_err(root_error)?;
    let files = builder.build();
    if enters_root {
        guest::early(&files)
            .change_directory(At::cwd(c"/"))
            .map_err(root_error)?;
    }
    let (uid, gid) = sys::ids();
    let request = loader::Request {
        path: &path,
        args,
        env: env.clone(),
        uid,
        gid,
    };
    let loaded = loader::load(&mut space, &request, &|path| {
        guest::open_program(guest::early(&files), path)
    })?;
    crate::serve::set_name(&loaded.named);
    let actions = inherited_actions();
    if let Some(tracer) = &tracer {
        trace::watch_signals(&actions);
        if first {
            tracer.first(path.as_bytes(), &loaded.args, env.len());
        } else {
            tracer.executed();
        }
    }
    let place = Place::of_user(launch.socket_secret).map_err(RunError::Sockets)?;
    let process = Arc::new(Process::new(Parts {
        device,
        space,
        actions,
        files,
        sockets: Sockets::new(place, None),
        ready: Arc::new(Ready::new(None)),
        ledger: Ledger::allocate().map_err(RunError::Memory)?.0,
        identity: Identity {
            uid,
            gid,
            groups: Vec::new(),
            exe: loaded.exe.clone(),
            named: loaded.named.clone(),
            args: loaded.args.clone(),
            env,
            auxiliary: loaded.auxiliary,
        },
        memory_limit: launch.memory,
        trace: tracer,
        contained: false,
        member: None,
        reseeding: Vec::new(),
        launch: Some(launch),
    }));
    let mut vcpu = process.take_vcpu().map_err(RunError::Memory)?;
    clock::begin(&mut vcpu);
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
