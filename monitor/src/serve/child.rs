//! The beginning of a child of `serve`, and the program in it.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::World;
use super::channel::{self, Message};
use crate::bundle::Contract;
use crate::contracts::StdinPipes;
use crate::errno::{Errno, from_libc};
use crate::fs::At;
use crate::fs::descriptors::{private, raise};
use crate::guest;
use crate::jail::{Confinement, Jail, Phase};
use crate::ledger::Ledger;
use crate::lifecycle::end_process;
use crate::loader;
use crate::memory::space::Space;
use crate::network::place::Place;
use crate::network::sockets::Sockets;
use crate::process::{Identity, Member, Parts, Process};
use crate::signals::{Action, host};
use crate::snapshot::format::Stamp;
use crate::syscalls::sockets;
use crate::task::Task;

/// Status of a child whose monitor failed; the guest's own statuses are in the ledger.
const FAILED: i32 = 70;

/// What a child is given besides the world.
pub struct Setup {
    /// Its name: 16 hex digits.
    pub name: String,
    pub channel: OwnedFd,
    /// Write ends of its log.
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub ledger: &'static Ledger,
    /// The memory file of the ledger.
    pub memory: RawFd,
}

impl Setup {
    /// The channel apart from the rest, for another thread.
    pub fn teller(&self) -> Result<Teller, Errno> {
        Ok(Teller(self.channel.try_clone_raised()?))
    }

    pub fn tell(&self, message: &Message, attached: Option<BorrowedFd<'_>>) {
        tell(self.channel.as_fd(), message, attached);
    }

    /// Ends the child: something of the monitor failed.
    pub fn fail(&self, what: &str) -> ! {
        self.ledger.end(crate::control::Cause::Internal, None, what);
        eprintln!("mayfly-monitor: {what}");
        end_process(FAILED)
    }
}

/// A copy of the channel to `serve`.
pub struct Teller(OwnedFd);

impl Teller {
    pub fn tell(&self, message: &Message, attached: Option<BorrowedFd<'_>>) {
        tell(self.0.as_fd(), message, attached);
    }
}

fn tell(channel: BorrowedFd<'_>, message: &Message, attached: Option<BorrowedFd<'_>>) {
    if channel::send(channel, message, attached).is_err() {
        // The parent is gone.
        end_process(FAILED);
    }
}

/// The three streams of the guest as descriptors, and for `stdin` the monitor's ends of them.
pub struct Streams {
    pub guest: [OwnedFd; 3],
    pub pipes: Option<StdinPipes>,
}

impl Streams {
    pub fn new(contract: Contract, setup: &Setup) -> Result<Self, Errno> {
        let stderr = setup.stderr.try_clone_raised()?;
        if contract == Contract::Stdin {
            let (stdin_read, stdin_write) = raised_pipe()?;
            let (stdout_read, stdout_write) = raised_pipe()?;
            return Ok(Self {
                guest: [stdin_read, stdout_write, stderr],
                pipes: Some(StdinPipes {
                    stdin: stdin_write,
                    stdout: stdout_read,
                }),
            });
        }
        let null = private(|| {
            Ok(std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/null")?
                .into())
        })?;
        Ok(Self {
            guest: [null, setup.stdout.try_clone_raised()?, stderr],
            pipes: None,
        })
    }
}

trait CloneRaised {
    fn try_clone_raised(&self) -> Result<OwnedFd, Errno>;
}

impl CloneRaised for OwnedFd {
    fn try_clone_raised(&self) -> Result<OwnedFd, Errno> {
        private(|| Ok(self.try_clone()?))
    }
}

/// A pipe whose ends are the monitor's: (read end, write end).
pub fn raised_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = sockets::pipe()?;
    Ok((raise(read)?, raise(write)?))
}

/// Puts the streams at 0, 1 and 2.
pub fn place_streams(streams: &[OwnedFd; 3]) -> Result<(), Errno> {
    for (number, stream) in (0..).zip(streams) {
        // SAFETY: no pointers; 0, 1 and 2 of this child are nobody's.
        from_libc(unsafe { libc::dup2(stream.as_raw_fd(), number) })?;
    }
    Ok(())
}

/// Bytes of file a guest may write beside its memory, and of memory the monitor may map for itself: tables, stacks.
const OWN_FILE_BYTES: u64 = 256 << 20;
const OWN_MEMORY_BYTES: u64 = 512 << 20;

/// The first steps after fork: a session of its own, nothing of the parent's, a place for the names of its sockets, the jail.
pub fn begin(world: &mut World, setup: &Setup, jail: &Jail, phase: Phase) {
    // SAFETY: no pointers.
    unsafe {
        // A session of its own: what the guest signals are its own processes.
        libc::setsid();
        // Whatever of the parent's is below the floor would be taken for the guest's.
        libc::syscall(
            libc::SYS_close_range,
            3,
            crate::fs::descriptors::MONITOR_FD_FLOOR - 1,
            0,
        );
    }
    if let Err(errno) = crate::sys::adopt_orphans() {
        setup.fail(&format!("prctl: {errno}"));
    }
    setup.ledger.kin.begin(crate::sys::process_id());
    world.kontain.own();
    guest::prepare_process();
    host::keep_stoppable();
    crate::fs::descriptors::set_limit(guest::CONTAINED_FILES);
    let scratch = world.options.scratch.join(&setup.name);
    if let Err(error) = std::fs::DirBuilder::new().mode(0o700).create(&scratch) {
        setup.fail(&format!("{}: {error}", scratch.display()));
    }
    match Place::open(&scratch) {
        Ok(place) => world.place = Some(place),
        Err(errno) => setup.fail(&format!("{}: {errno}", scratch.display())),
    }
    let memory = world.bundle.function.memory_bytes;
    let confinement = Confinement {
        phase,
        // The boot writes the memory image, whose offsets are addresses.
        file_bytes: (phase == Phase::Instance).then(|| memory.saturating_add(OWN_FILE_BYTES)),
        // What is mapped and fresh does not count, but the kernel counts it.
        data_bytes: Some(crate::vm::layout::WINDOW + OWN_MEMORY_BYTES),
        cpu_seconds: world.options.cpu_limit.filter(|_| phase == Phase::Instance),
        scratch: (phase == Phase::Instance).then_some(&scratch),
    };
    if let Err(error) = jail.confine(&confinement) {
        setup.fail(&format!("the jail: {error}"));
    }
}

/// Names the process after its program, as exec(2) does.
pub fn set_name(program: &CStr) {
    let name = program
        .to_bytes()
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    if let Ok(name) = CString::new(&name[..name.len().min(15)]) {
        // SAFETY: a NUL-terminated name of at most 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// Why a program was not loaded.
pub struct Unloadable {
    pub is_program: bool,
    pub message: String,
}

/// Loads the bundle's program into a fresh VM, on the calling thread.
pub fn load(world: World, setup: &Setup) -> Result<(Arc<Process>, Task, Remaining), Unloadable> {
    let internal = |what: &str, error: &dyn std::fmt::Display| Unloadable {
        is_program: false,
        message: format!("{what}: {error}"),
    };
    let World {
        options,
        bundle,
        device,
        listener,
        files,
        ready,
        kontain,
        image,
        head,
        stamp,
        rehearsed,
        apart,
        prepared,
        place,
        enclosed: _,
        orphans: _,
        link: _,
        broker,
    } = world;
    // What an instance could write there would be in all others.
    drop(apart);
    if let Some(prepared) = prepared {
        prepared.discard().map_err(|error| internal("memory", &error))?;
    }
    let place = place.ok_or_else(|| internal("sockets", &"no place for their names"))?;
    let vm = device.create_vm().map_err(|error| internal("KVM", &error))?;
    let mut space =
        Space::new(vm, bundle.function.memory_bytes).map_err(|error| internal("memory", &error))?;
    let strings = |texts: &[String]| -> Vec<CString> {
        texts
            .iter()
            .filter_map(|text| CString::new(text.as_str()).ok())
            .collect()
    };
    let early = guest::early(&files);
    let program = &bundle.program;
    let cwd = CString::new(program.cwd.as_str()).unwrap_or_default();
    let named = |what: String| {
        move |error: Errno| Unloadable {
            is_program: true,
            message: format!("{what}: {error}"),
        }
    };
    early
        .change_directory(At::cwd(&cwd))
        .map_err(named(format!("working directory {:?}", program.cwd)))?;
    let env = strings(&program.env);
    let path = find(early, &program.args[0], &program.env);
    let request = loader::Request {
        path: &CString::new(path).unwrap_or_default(),
        args: strings(&program.args),
        env: env.clone(),
        uid: program.uid,
        gid: program.gid,
    };
    let loaded = loader::load(&mut space, &request, &|path| {
        guest::open_program(guest::early(&files), path)
    })
    .map_err(|error| Unloadable {
        is_program: true,
        message: error.to_string(),
    })?;
    set_name(&loaded.named);
    let port = bundle.function.port;
    let mut sockets = Sockets::new(place, Some(port));
    sockets.broker = broker;
    let process = Arc::new(Process::new(Parts {
        device,
        space,
        actions: [Action::default(); 65],
        files,
        sockets,
        ready,
        ledger: setup.ledger,
        identity: Identity {
            uid: program.uid,
            gid: program.gid,
            groups: program.groups.clone(),
            exe: loaded.exe,
            named: loaded.named,
            args: loaded.args,
            env,
            auxiliary: loaded.auxiliary,
        },
        memory_limit: bundle.function.memory_bytes,
        trace: None,
        contained: true,
        member: Some(Member::new(0, setup.memory)),
        reseeding: Vec::new(),
        launch: None,
    }));
    let mut vcpu = process.take_vcpu().map_err(|error| internal("vCPU", &error))?;
    crate::clock::begin(&mut vcpu);
    for signal in 1..=64 {
        // What the parent ignores or handles is not the program's.
        let _ = host::set_disposition(signal, crate::signals::SIG_DFL, 0);
    }
    let mut task = Task::new(process.clone(), vcpu, 0);
    task.start_at(loaded.entry, loaded.stack_pointer);
    let listener = Mutex::new(Some(listener));
    let remaining = Remaining {
        options,
        contract: bundle.function.contract,
        listener,
        kontain,
        stamp,
        written: Mutex::new(Some(Written {
            image,
            head,
            rehearsed,
        })),
    };
    Ok((process, task, remaining))
}

/// What is left of the world when the program has its part.
pub struct Remaining {
    pub options: super::Options,
    pub contract: Contract,
    /// Until the call has come: one connection is one call.
    pub listener: Mutex<Option<OwnedFd>>,
    pub kontain: Arc<super::kontain::Files>,
    pub stamp: Stamp,
    /// Until then, too: what an instance could write there would be in all others.
    pub written: Mutex<Option<Written>>,
}

/// The memory files of the snapshot.
pub struct Written {
    pub image: OwnedFd,
    pub head: OwnedFd,
    pub rehearsed: OwnedFd,
}

impl Remaining {
    pub fn take_written(&self) -> Option<Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The program's path: looked up in its own PATH when it is a bare name.
fn find(files: crate::fs::Files<'_>, program: &str, env: &[String]) -> Vec<u8> {
    const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if program.contains('/') {
        return program.as_bytes().to_vec();
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT);
    path.split(':')
        .map(|directory| format!("{directory}/{program}"))
        .find(|candidate| {
            CString::new(candidate.as_str()).is_ok_and(|name| guest::open_program(files, &name).is_ok())
        })
        .unwrap_or_else(|| program.to_owned())
        .into_bytes()
}
