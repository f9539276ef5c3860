//! The rehearsal: example calls, each in a clone that is thrown away, to learn what a call touches (`working_set`).
//!
//! The examples are the plainest there are: `GET /`, then a `POST /` of an empty JSON object, or if that was not welcome of nothing; or an empty
//! input. Of their answers nothing but the status is looked at, and what the program logs meanwhile is forgotten; nobody has connected, and
//! nothing that they do outlives them. What an unwelcome call touches is not what calls touch (a traceback is longer than an answer), so it
//! counts only where nothing better is known. The first that does not end is the last; without any there is no working set.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
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
use crate::snapshot::image;
use crate::sys;
use crate::working_set::WorkingSet;

/// How long the example call may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nothing may come after the beginning of an answer, milliseconds: then it is taken for whole.
const SILENCE: i32 = 200;

const GET: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mayfly\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

const JSON: &[u8] =
    b"POST / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mayfly\r\nAccept: */*\r\nConnection: close\r\n\
Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// The example calls of a contract. Together they touch what a call does that reads a body as well as one that does not.
pub fn examples(contract: Contract) -> &'static [&'static [u8]] {
    if contract == Contract::Http {
        &[GET, JSON, POST]
    } else {
        &[POST]
    }
}

/// The plainest example call of a contract.
pub fn example(contract: Contract) -> &'static [u8] {
    examples(contract).first().unwrap_or(&POST)
}

/// The process's page map. Read by its owner; a monitor that is not privileged is not the owner of its own, once it is undumpable.
pub fn page_map() -> Option<File> {
    let file = File::open("/proc/self/pagemap").ok()?;
    Some(File::from(raise(OwnedFd::from(file)).ok()?))
}

/// Makes the example call: gives the connection as the instance would have accepted it. What is touched is kept when it ends.
pub fn call(
    process: &Arc<Process>,
    example: &[u8],
    setup: &Setup,
    set: OwnedFd,
    pagemap: Option<File>,
) -> Result<OwnedFd, Errno> {
    let (caller, connection) = sys::socket_pair(libc::SOCK_STREAM)?;
    let (caller, connection) = (raise(caller)?, raise(connection)?);
    sys::write(&caller, example)?;
    let (set, told) = (File::from(set), setup.teller()?);
    let answer = Arc::new(Answer {
        caller,
        beginning: Mutex::default(),
    });
    let heard = answer.clone();
    process.set_at_end(Box::new(move |process| {
        let touched = WorkingSet::collect(&process.lock_space(), pagemap.as_ref(), process.woken());
        if touched.save(&set).is_ok() {
            let welcome = heard.is_welcome();
            told.tell(&Message::Rehearsed { welcome }, None);
        }
    }));
    let owner = process.clone();
    contracts::spawn("caller", move || {
        read_answer(&answer);
        owner.run_at_end();
        end_process(0)
    })
    .map_err(|_| Errno::AGAIN)?;
    Ok(connection)
}

/// `HTTP/1.1 200`
const STATUS_LINE: usize = 12;

/// What the program answers the example call.
struct Answer {
    caller: OwnedFd,
    beginning: Mutex<Vec<u8>>,
}

impl Answer {
    /// Reads some more; only the beginning is kept.
    fn read(&self) -> Result<usize, Errno> {
        let mut buffer = [0u8; 4096];
        let mut beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        let length = sys::receive(&self.caller, &mut buffer, libc::MSG_DONTWAIT)?;
        let left = STATUS_LINE.saturating_sub(beginning.len()).min(length);
        beginning.extend_from_slice(&buffer[..left]);
        Ok(length)
    }

    /// Whether it begins with a status that says that all is well.
    fn is_welcome(&self) -> bool {
        let _ = self.read();
        let beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        beginning.starts_with(b"HTTP/1.") && matches!(beginning.get(8..10), Some(b" 2" | b" 3"))
    }
}

/// Reads until the program closes, or has said nothing for a while. Before its first byte the parent's patience counts.
fn read_answer(answer: &Answer) {
    let mut patience = -1;
    loop {
        let mut poll = [libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&answer.caller),
            events: libc::POLLIN,
            revents: 0,
        }];
        match sys::poll(&mut poll, patience) {
            Ok(0) => return,
            Err(Errno::INTR) => continue,
            _ => {}
        }
        match answer.read() {
            Err(Errno::AGAIN) => {}
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
    /// Forks a rehearsal.
    pub(super) fn rehearse(&mut self, launch: Launch) -> Result<(), Stop> {
        self.rehearsing = Some(launch.clone());
        let number = self.spawn(false, move |world, setup, jail, id| {
            instance::run(world, setup, jail, &launch, id, None)
        })?;
        if let Some(child) = self.children.get_mut(&number) {
            child.rehearses = true;
            child.doom = Some((Instant::now() + PATIENCE, Cause::Deadline));
        }
        Ok(())
    }

    /// A rehearsal ended: the next example is made, or clones are from now on.
    pub(super) fn rehearsed(&mut self, child: &Child, control: &mut ControlStream<'_>) -> Result<(), Stop> {
        let Some(Launch::Rehearsal(snapshot, number)) = self.rehearsing.take() else {
            return Ok(());
        };
        if self.draining {
            return Ok(());
        }
        let found = match (&child.told, &self.world) {
            (Some(Message::Rehearsed { welcome }), Some(world)) => {
                let set = world.rehearsed.try_clone().map_err(Errno::from);
                let set = set.and_then(|set| WorkingSet::load(&File::from(set)));
                set.ok().map(|set| (set, *welcome))
            }
            _ => None,
        };
        let next = number + 1;
        let last = next == examples(self.contract).len();
        if let Some((set, welcome)) = found {
            match &mut self.learnt[usize::from(!welcome)] {
                Some(known) if welcome => known.add(set),
                Some(_) => {}
                unknown => *unknown = Some(set),
            }
            // One call without a body, one with one.
            if !(last || welcome && number > 0) {
                return self.rehearse(Launch::Rehearsal(snapshot, next));
            }
        }
        let [good, any] = std::mem::take(&mut self.learnt);
        let mut set = good.or(any).unwrap_or_default();
        set.choose_apart(|page| snapshot.space.is_writable_image(page));
        if let Some(world) = &self.world {
            if image::copy_pages(world.image.as_fd(), &set.apart, &world.apart).is_err() {
                set.apart.clear();
            }
            // Where the kernel refuses, pages stay small.
            let _ = image::collapse(world.image.as_fd(), &set.regions());
        }
        if let Some(shown) = &mut self.snapshot {
            shown.warm_pages = set.pages();
        }
        self.open_for_calls(Launch::Clone(snapshot, Arc::new(set)), None, control)
    }
}
