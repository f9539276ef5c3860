//! The rehearsal: one example call in a clone that is thrown away, to learn what a call touches (`working_set`).
//!
//! The example is the plainest there is, `GET /` or an empty input. Its answer is read and forgotten, like all that the program logs
//! meanwhile; nobody has connected, and nothing that it does outlives it. A rehearsal that does not end well leaves no working set.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Launch;
use super::channel::Message;
use super::child::Setup;
use super::instance;
use super::offspring::Child;
use super::parent::{Parent, Stop};
use crate::bundle::Contract;
use crate::contracts;
use crate::control::{Cause, ControlStream};
use crate::errno::Errno;
use crate::fs::descriptors::raise;
use crate::lifecycle::end_process;
use crate::process::Process;
use crate::sys;
use crate::working_set::WorkingSet;

/// How long the example call may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nothing may come after the beginning of an answer, milliseconds: then it is taken for whole.
const SILENCE: i32 = 200;

const GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mayfly\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The example call of a contract.
pub fn example(contract: Contract) -> &'static [u8] {
    if contract == Contract::Http { GET } else { POST }
}

/// The process's page map. Read by its owner; a monitor that is not privileged is not the owner of its own, once it is undumpable.
pub fn page_map() -> Option<File> {
    let file = File::open("/proc/self/pagemap").ok()?;
    Some(File::from(raise(OwnedFd::from(file)).ok()?))
}

/// Makes the example call: gives the connection as the instance would have accepted it. What is touched is kept when it ends.
pub fn call(
    process: &std::sync::Arc<Process>,
    contract: Contract,
    setup: &Setup,
    set: OwnedFd,
    pagemap: Option<File>,
) -> Result<OwnedFd, Errno> {
    let (caller, connection) = sys::socket_pair(libc::SOCK_STREAM)?;
    let (caller, connection) = (raise(caller)?, raise(connection)?);
    sys::write(&caller, example(contract))?;
    let (set, told) = (File::from(set), setup.teller()?);
    process.set_at_end(Box::new(move |process| {
        let touched = {
            let space = process.lock_space();
            let touched = WorkingSet::collect(&space, pagemap.as_ref(), process.woken());
            space.collapse(&touched);
            touched
        };
        if touched.save(&set).is_ok() {
            told.tell(&Message::Rehearsed, None);
        }
    }));
    let owner = process.clone();
    contracts::spawn("caller", move || {
        read_answer(&caller);
        owner.run_at_end();
        end_process(0)
    })
    .map_err(|_| Errno::AGAIN)?;
    Ok(connection)
}

/// Reads until the program closes, or has said nothing for a while. Before its first byte the parent's patience counts.
fn read_answer(caller: &OwnedFd) {
    let mut buffer = [0u8; 4096];
    let mut patience = -1;
    loop {
        let mut poll = [libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(caller),
            events: libc::POLLIN,
            revents: 0,
        }];
        match sys::poll(&mut poll, patience) {
            Ok(0) => return,
            Err(Errno::INTR) => continue,
            _ => {}
        }
        match sys::read(caller, &mut buffer) {
            Ok(0) => loop {
                // Closed: whoever closed it ends the process.
                std::thread::park();
            },
            Ok(_) => patience = SILENCE,
            Err(_) => loop {
                std::thread::park();
            },
        }
    }
}

impl Parent {
    /// Forks the rehearsal.
    pub(super) fn rehearse(&mut self, launch: Launch) -> Result<(), Stop> {
        let number = self.spawn(false, move |world, setup, jail, id| {
            instance::run(world, setup, jail, &launch, id, None)
        })?;
        if let Some(child) = self.children.get_mut(&number) {
            child.rehearses = true;
            child.doom = Some((Instant::now() + PATIENCE, Cause::Deadline));
        }
        Ok(())
    }

    /// The rehearsal ended: clones are made from now on.
    pub(super) fn rehearsed(&mut self, child: &Child, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        if self.draining {
            return Ok(());
        }
        let set = match (&child.told, &self.world) {
            (Some(Message::Rehearsed), Some(world)) => world
                .rehearsed
                .try_clone()
                .map_err(Errno::from)
                .and_then(|set| WorkingSet::load(&File::from(set)))
                .unwrap_or_default(),
            _ => WorkingSet::default(),
        };
        let Some(Launch::Rehearsal(snapshot)) = self.rehearsing.take() else {
            return Ok(());
        };
        if let Some(shown) = &mut self.snapshot {
            shown.warm_pages = set.pages();
        }
        self.open_for_calls(Launch::Clone(snapshot, std::sync::Arc::new(set)), None, control)
    }
}
