//! One instance: a virtual machine for one call, from its making to the guest's first instruction of the call.
//!
//! Parked, it waits in accept(2) on the function's socket: the kernel hands a connection to exactly one such process. Nothing of
//! the guest runs before the envelope has been read.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::channel::Message;
use super::child::{self, Remaining, Setup, Streams, Written};
use super::{Launch, Waiting, World, rehearsal};
use crate::bundle::Contract;
use crate::clock;
use crate::contracts::{self, Ending, ExitNotice, Kontain, KontainLimits, StdinPipes, envelope, run_stdin};
use crate::control::{Cause, InstanceId};
use crate::dormant::{self, Dormant};
use crate::errno::Errno;
use crate::fs::Files;
use crate::fs::carrying::Remade;
use crate::guest;
use crate::jail::{Jail, Phase};
use crate::lifecycle::end_process;
use crate::memory::SpaceState;
use crate::memory::space::Space;
use crate::network::sockets::Sockets;
use crate::process::{Identity, Member, Parts, Process, Thread};
use crate::signals::{Actions, host, mirror_action};
use crate::snapshot::{Snapshot, rebuilding};
use crate::task::{Task, TaskState};
use crate::vm::kvm::Vm;
use crate::working_set::WorkingSet;

/// Largest request of the contract `kontain`, bytes; the server has a limit of its own before it.
const KONTAIN_BODY: u64 = 64 << 20;

/// Runs an instance in a fresh child; ends it. `given` is the connection of its call, if that need not be awaited.
pub fn run(
    mut world: World,
    setup: Setup,
    jail: &Jail,
    launch: &Launch,
    id: InstanceId,
    given: Option<OwnedFd>,
) -> ! {
    child::begin(&mut world, &setup, jail, Phase::Instance);
    if world.files.set_instance(&setup.name).is_err() {
        setup.fail("the private directories cannot be named");
    }
    let streams = match Streams::new(world.bundle.function.contract, &setup) {
        Ok(streams) => streams,
        Err(errno) => setup.fail(&format!("standard streams: {errno}")),
    };
    if given.is_some() || matches!(launch, Launch::Rehearsal(..)) {
        // An example call of nobody's reaches nothing outside.
        world.broker = None;
    }
    let call = Coming { id, given };
    match launch {
        Launch::Clone(snapshot, set) => run_clone(world, setup, snapshot, Made::Warm(set), streams, call),
        Launch::Rehearsal(snapshot, number) => {
            run_clone(world, setup, snapshot, Made::Rehearsing(*number), streams, call)
        }
        Launch::Boot | Launch::Start => run_program(world, setup, launch, streams, call),
    }
}

/// What a clone is made for.
#[derive(Clone, Copy)]
enum Made<'a> {
    /// A call, which touches this.
    Warm(&'a WorkingSet),
    /// The example call of this number, to find what it touches.
    Rehearsing(usize),
}

impl<'a> Made<'a> {
    fn set(self) -> Option<&'a WorkingSet> {
        match self {
            Self::Warm(set) => Some(set),
            Self::Rehearsing(_) => None,
        }
    }
}

/// The call of an instance: to be awaited under its name, or given.
struct Coming {
    id: InstanceId,
    given: Option<OwnedFd>,
}

/// From the snapshot: memory, descriptors and threads are made again, then the call is awaited.
fn run_clone(
    world: World,
    setup: Setup,
    snapshot: &Snapshot,
    made: Made<'_>,
    streams: Streams,
    call: Coming,
) -> ! {
    let set = made.set();
    // `begin` has confined this process: what is refused now is done without.
    let pagemap = if set.is_none() {
        rehearsal::page_map()
    } else {
        None
    };
    let (process, remaining, pipes, laid) = match restore(world, &setup, snapshot, streams) {
        Ok(restored) => restored,
        Err(why) => setup.fail(&format!("a clone could not be made: {why}")),
    };
    process.resting.store(true, Ordering::Release);
    let mut main = match first_thread(&process, snapshot, laid.is_some()) {
        Ok(main) => main,
        Err(why) => setup.fail(&why),
    };
    for state in snapshot.threads.iter().filter(|state| !state.main) {
        if let Err(why) = other_thread(&process, state, remaining.options.clones.waiting, set) {
            setup.fail(&why);
        }
    }
    if let Err(errno) = process.watch_dormant() {
        setup.fail(&format!("a thread: {errno}"));
    }
    if let (Some(pages), Some(task)) = (laid, &mut main) {
        task.warm(pages);
        // Fails like the laying out: for want of memory for tables, which are there.
        let _ = process.lock_space().clear_warmer(pages);
    }
    match made {
        Made::Warm(_) => await_call(&process, &setup, &remaining, pipes, call),
        Made::Rehearsing(number) => rehearse(&process, &setup, &remaining, pipes, (number, pagemap)),
    }
    clock::thaw(&snapshot.clocks);
    if let Err(errno) = snapshot.resume_timers(&process) {
        setup.fail(&format!("a clone could not be made: timers: {errno}"));
    }
    // Before the warden: the call's connection may have made a set ready.
    process.look_after_dormant();
    // Another thread of the program may send a signal before this one has the mask of its own.
    host::block_all();
    process.release();
    match main {
        Some(mut task) => {
            task.go_on();
            end_process(0)
        }
        // The program's main thread had ended before.
        None => loop {
            std::thread::park();
        },
    }
}

/// The first vCPU, with the main thread if the program still has it. One that will be warmed begins the clocks then.
fn first_thread(process: &Arc<Process>, snapshot: &Snapshot, warmed: bool) -> Result<Option<Task>, String> {
    let mut vcpu = process.take_vcpu().map_err(|errno| format!("vCPU: {errno}"))?;
    if !warmed {
        clock::begin(&mut vcpu);
    }
    let Some(state) = snapshot.threads.iter().find(|state| state.main) else {
        process.give_vcpu(vcpu);
        return Ok(None);
    };
    let mut task = Task::new(process.clone(), vcpu, state.mask);
    task.restore(state)
        .map_err(|error| format!("the main thread: {error}"))?;
    Ok(Some(task))
}

/// Another thread: a record if it waits.
fn other_thread(
    process: &Arc<Process>,
    state: &TaskState,
    waiting: Waiting,
    set: Option<&WorkingSet>,
) -> Result<(), String> {
    let vcpu = || process.take_vcpu().map_err(|errno| format!("vCPU: {errno}"));
    let dormant = match waiting {
        Waiting::Threads => None,
        Waiting::Records | Waiting::Hybrid => Dormant::of(state),
    };
    if let Some(dormant) = dormant {
        let woken = set.is_some_and(|set| set.woken.contains(&state.tid));
        let ready = if waiting == Waiting::Hybrid && woken {
            Some(vcpu()?)
        } else {
            None
        };
        return process
            .add_dormant(dormant, ready)
            .map_err(|errno| format!("a thread: {errno}"));
    }
    let (process, state, vcpu) = (process.clone(), state.clone(), vcpu()?);
    // In the list before the call, whenever the host runs it first.
    process.thread_came(Thread::running(state.tid, 0));
    let spawned = contracts::spawn("guest", move || {
        let mut task = dormant::awake(&process, Some(vcpu), &state);
        process.await_release();
        task.run();
        task.finish();
    });
    spawned.map(|_| ()).map_err(|error| format!("a thread: {error}"))
}

/// In place of a call.
fn rehearse(
    process: &Arc<Process>,
    setup: &Setup,
    remaining: &Remaining,
    pipes: Option<StdinPipes>,
    (number, pagemap): (usize, Option<File>),
) {
    let set = remaining
        .take_written()
        .ok_or(Errno::BADF)
        .map(|written| written.rehearsed);
    let connection = set.and_then(|set| {
        let example = rehearsal::examples(remaining.contract).get(number);
        rehearsal::call(process, example.ok_or(Errno::INVAL)?, setup, set, pagemap)
    });
    match connection {
        Ok(connection) => give(process, setup, remaining, pipes, connection),
        Err(errno) => setup.fail(&format!("the rehearsal: {errno}")),
    }
}

/// The last is how many pages it is to touch.
type Restored = (Arc<Process>, Remaining, Option<StdinPipes>, Option<u64>);

fn restore(world: World, setup: &Setup, snapshot: &Snapshot, streams: Streams) -> Result<Restored, String> {
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
    let text = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    let vm = device.create_vm().map_err(|error| error.to_string())?;
    let limit = bundle.function.memory_bytes;
    let (mut space, laid) = match prepared {
        Some(prepared) => prepared.take_up(vm, &apart).map_err(text("memory"))?,
        None => observed(vm, limit, &snapshot.space, &image).map_err(text("memory image"))?,
    };
    // What an instance could write there would be in all others.
    drop(apart);
    space
        .make_shared(&snapshot.space, image.as_raw_fd())
        .map_err(text("memory image"))?;
    renew_random(&snapshot.auxiliary).map_err(text("AT_RANDOM"))?;
    space.attach().map_err(text("memory slots"))?;
    child::place_streams(&streams.guest).map_err(text("standard streams"))?;
    let port = bundle.function.port;
    let place = place.ok_or("no place for sockets")?;
    let mut sockets = Sockets::restore(place, Some(port), &snapshot.sockets);
    sockets.broker = broker;
    let remade = {
        let early = guest::early(&files);
        let remade = snapshot
            .carried
            .remake(early)
            .map_err(|error| error.to_string())?;
        let directory =
            std::ffi::CString::new(snapshot.directory.clone()).map_err(|error| error.to_string())?;
        early
            .change_directory(crate::fs::At::cwd(&directory))
            .map_err(text("working directory"))?;
        rebuild(early, snapshot, streams.guest, &sockets, &remade)?;
        remade
    };
    for shared in &snapshot.shared {
        let file = usize::try_from(shared.content)
            .ok()
            .and_then(|content| remade.get(content));
        let file = file.ok_or("a shared mapping of nothing")?;
        space
            .share(shared.start, file.as_raw_fd())
            .map_err(text("a shared mapping"))?;
    }
    // SAFETY: no pointers.
    unsafe { libc::umask(snapshot.umask) };
    let mut actions: Actions = Actions::from([crate::signals::Action::default(); 65]);
    for (signal, action) in snapshot.actions.iter().enumerate().take(65).skip(1) {
        actions[signal] = *action;
        // SIGKILL and SIGSTOP cannot be set, and never were.
        let _ = mirror_action(signal, *action);
    }
    crate::pids::keep(snapshot.pid);
    // The moment of readiness is behind this process.
    ready.pass();
    let process = Arc::new(Process::new(Parts {
        device,
        space,
        actions,
        files,
        sockets,
        ready,
        ledger: setup.ledger,
        identity: Identity {
            uid: bundle.program.uid,
            gid: bundle.program.gid,
            groups: bundle.program.groups.clone(),
            exe: snapshot.exe.clone(),
            named: snapshot.named.clone(),
            args: snapshot.args.clone(),
            env: snapshot.env.clone(),
            auxiliary: snapshot.auxiliary.clone(),
        },
        memory_limit: bundle.function.memory_bytes,
        trace: None,
        contained: true,
        member: Some(Member::new(0, setup.memory)),
        reseeding: snapshot.reseeding.clone(),
        launch: None,
    }));
    if let Some(storage) = &process.storage {
        storage
            .adopt(snapshot.carried.names(), &remade)
            .map_err(text("carried files"))?;
    }
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
    child::set_name(&snapshot.named);
    Ok((process, remaining, streams.pipes, laid))
}

/// The memory of a clone whose touches are to be seen.
fn observed(vm: Vm, limit: u64, state: &SpaceState, image: &OwnedFd) -> Result<(Space, Option<u64>), Errno> {
    let mut space = Space::detached(vm, limit)?;
    space.observe();
    space.map_image(state, image.as_raw_fd())?;
    space.restore(state)?;
    Ok((space, None))
}

/// Other random bytes where AT_RANDOM leads. What the C library has made of the old ones (the canary of stacks, the mangling of pointers) lies
/// elsewhere and stays; whoever asks from now on gets bytes of this clone's own.
fn renew_random(auxiliary: &[u8]) -> Result<(), Errno> {
    let words = auxiliary
        .chunks_exact(8)
        .map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
    let words: Vec<u64> = words.collect();
    let place = words.chunks_exact(2).find(|pair| pair[0] == libc::AT_RANDOM);
    match place {
        Some(pair) => crate::memory::access::write_bytes(pair[1], &crate::fs::random()?),
        None => Ok(()),
    }
}

/// 0, 1 and 2 are free for the snapshot's own use: a program may have closed or replaced them.
fn rebuild(
    files: Files<'_>,
    snapshot: &Snapshot,
    streams: [OwnedFd; 3],
    sockets: &Sockets,
    remade: &Remade,
) -> Result<(), String> {
    for number in 0..3 {
        if !snapshot
            .descriptors
            .iter()
            .any(|descriptor| descriptor.fd == number)
        {
            // SAFETY: a number of the guest's, which is not to be open.
            unsafe { libc::close(number) };
        }
    }
    rebuilding::rebuild(files, &snapshot.descriptors, streams, sockets, remade)
        .map_err(|error| error.to_string())
}

/// Without a snapshot: the program itself is run up to where the call is awaited.
fn run_program(world: World, setup: Setup, launch: &Launch, streams: Streams, call: Coming) -> ! {
    if let Err(errno) = child::place_streams(&streams.guest) {
        setup.fail(&format!("standard streams: {errno}"));
    }
    let (process, mut task, remaining) = match child::load(world, &setup) {
        Ok(loaded) => loaded,
        Err(problem) => setup.fail(&problem.message),
    };
    let Streams { guest, pipes } = streams;
    drop(guest);
    if matches!(launch, Launch::Start) {
        process.ready.pass();
        await_call(&process, &setup, &remaining, pipes, call);
    } else {
        process.set_plan(Box::new(move |process, _| {
            await_call(process, &setup, &remaining, pipes, call)
        }));
    }
    task.run();
    end_process(0)
}

/// Waits for the connection and its envelope, and gives the guest its call.
fn await_call(
    process: &Process,
    setup: &Setup,
    remaining: &Remaining,
    pipes: Option<StdinPipes>,
    call: Coming,
) {
    drop(remaining.take_written());
    let Coming { id, given } = call;
    if let Some(connection) = given {
        give(process, setup, remaining, pipes, connection);
        return;
    }
    if remaining.contract == Contract::Http
        && let Err(errno) = process.lock_sockets().expect_call()
    {
        setup.fail(&format!("the connection: {errno}"));
    }
    process.ledger.begin();
    setup.tell(&Message::Parked, None);
    let connection = accept(setup, remaining);
    process.ledger.take_call();
    let envelope = match envelope::exchange(connection.as_fd(), id) {
        Ok(envelope) => envelope,
        Err(error) => {
            process.ledger.end(Cause::Abandoned, None, &error.to_string());
            end_process(0)
        }
    };
    let budget_ms = u64::try_from(envelope.budget.as_millis()).unwrap_or(u64::MAX);
    setup.tell(
        &Message::Accepted {
            call: envelope.call,
            budget_ms,
        },
        Some(connection.as_fd()),
    );
    give(process, setup, remaining, pipes, connection);
}

/// Gives the guest its connection.
fn give(
    process: &Process,
    setup: &Setup,
    remaining: &Remaining,
    pipes: Option<StdinPipes>,
    connection: OwnedFd,
) {
    match (remaining.contract, pipes) {
        (Contract::Http, _) => {
            if let Err(errno) = process.lock_sockets().connect_call(connection) {
                setup.fail(&format!("the connection: {errno}"));
            }
        }
        (Contract::Stdin, Some(pipes)) => {
            serve_stdin(process, setup, connection, pipes, remaining.options.output_limit)
        }
        (Contract::Stdin, None) => setup.fail("no pipes for the contract stdin"),
        (Contract::Kontain, _) => serve_kontain(process, remaining, connection),
    }
}

/// The function's next connection, and no other after it. EINVAL: `serve` drains, no connection will come.
fn accept(setup: &Setup, remaining: &Remaining) -> OwnedFd {
    let listener = remaining
        .listener
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some(listener) = listener else {
        setup.fail("a second call in one instance")
    };
    loop {
        // SAFETY: no addresses are asked for.
        let fd = unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        };
        if fd >= 0 {
            // SAFETY: a fresh descriptor.
            let connection = unsafe { OwnedFd::from_raw_fd(fd) };
            match crate::fs::descriptors::raise(connection) {
                Ok(connection) => return connection,
                Err(errno) => setup.fail(&format!("the connection: {errno}")),
            }
        }
        match Errno::last() {
            Errno::INTR | Errno(libc::ECONNABORTED) => {}
            Errno::INVAL => {
                setup.ledger.end(Cause::Drained, None, "");
                end_process(0)
            }
            errno => setup.fail(&format!("accept: {errno}")),
        }
    }
}

/// `stdin`: a helper thread speaks HTTP and ends the process when all is said.
fn serve_stdin(process: &Process, setup: &Setup, connection: OwnedFd, pipes: StdinPipes, limit: usize) {
    let Ok(notice) = ExitNotice::new().map(Arc::new) else {
        setup.fail("eventfd")
    };
    let told = notice.clone();
    let ledger = process.ledger;
    process.set_exit(Box::new(move |_, status| {
        told.tell(Ending::Exited(u8::try_from(status).unwrap_or(u8::MAX)));
        // The helper ends the process when the answer is written.
        loop {
            std::thread::park();
        }
    }));
    let spawned = contracts::spawn("contract", move || {
        // Held until the end is noted: a program that writes on meets no closed pipe before.
        let _stdout = pipes.stdout.try_clone();
        let outcome = run_stdin(connection, pipes, &notice, limit);
        ledger.bytes_in.store(outcome.bytes_in, Ordering::Relaxed);
        ledger.bytes_out.store(outcome.bytes_out, Ordering::Relaxed);
        let (cause, code, message) = outcome.receipt();
        ledger.end(cause, code, message.unwrap_or(""));
        end_process(0)
    });
    if spawned.is_err() {
        setup.fail("a thread could not be made");
    }
}

/// `kontain`: the request is read now, the reply is answered at the program's end.
fn serve_kontain(process: &Process, remaining: &Remaining, connection: OwnedFd) {
    let ledger = process.ledger;
    let finish = move |outcome: contracts::Outcome| {
        ledger.bytes_in.store(outcome.bytes_in, Ordering::Relaxed);
        ledger.bytes_out.store(outcome.bytes_out, Ordering::Relaxed);
        let (cause, code, message) = outcome.receipt();
        ledger.end(cause, code, message.unwrap_or(""));
    };
    let limits = KontainLimits {
        body: KONTAIN_BODY,
        output: remaining.options.output_limit,
    };
    match Kontain::begin(connection, limits) {
        Ok(call) => remaining.kontain.begin(call),
        Err(outcome) => {
            finish(outcome);
            end_process(0)
        }
    }
    let files = remaining.kontain.clone();
    process.set_exit(Box::new(move |_, status| {
        if let (Some(call), Ok(notice)) = (files.end(), ExitNotice::new()) {
            host::block_all();
            notice.tell(Ending::Exited(u8::try_from(status).unwrap_or(u8::MAX)));
            finish(call.finish(&notice));
        }
    }));
}
