//! The boot: runs the program to readiness in a child and writes its snapshot.

use std::os::fd::AsFd;

use super::World;
use super::channel::Message;
use super::child::{self, Setup, Streams, Written};
use crate::jail::{Jail, Phase};
use crate::lifecycle::end_process;
use crate::snapshot::{Snapshot, SnapshotError, descriptors, file};

/// Boots in a fresh child; ends it.
pub fn run(mut world: World, setup: Setup, jail: &Jail) -> ! {
    child::begin(&mut world, &setup, jail, Phase::Boot);
    if world.files.set_instance(&setup.name).is_err() {
        setup.fail("the private directories cannot be named");
    }
    let streams = match Streams::new(world.bundle.function.contract, &setup) {
        Ok(mut streams) => {
            // What the program writes before it is called is its log, whatever stdout means in a call.
            if streams.pipes.is_some()
                && let Ok(stdout) = setup.stdout.try_clone()
            {
                streams.guest[1] = stdout;
            }
            streams
        }
        Err(errno) => setup.fail(&format!("standard streams: {errno}")),
    };
    if let Err(errno) = child::place_streams(&streams.guest) {
        setup.fail(&format!("standard streams: {errno}"));
    }
    let noted = match descriptors::Streams::note() {
        Ok(noted) => noted,
        Err(errno) => setup.fail(&format!("standard streams: {errno}")),
    };
    let (process, mut task, remaining) = match child::load(world, &setup) {
        Ok(loaded) => loaded,
        Err(problem) => {
            setup.tell(&Message::Unloadable(problem.is_program, problem.message), None);
            end_process(1)
        }
    };
    let timers = process.clone();
    process.ready.settling.allow(
        Box::new(move |most| timers.lock_timers().longest(most)),
        // A program that is late already is not held up much longer.
        remaining.options.ready_timeout / 4,
    );
    process.set_plan(Box::new(move |process, threads| {
        // The ends that keep the program's input open live until here.
        let _streams = streams;
        let others = process.ledger.kin.others();
        let taken = match remaining.take_written() {
            _ if others > 0 => Err(SnapshotError::Refused(format!("child processes: {others}"))),
            Some(Written { image, head, .. }) => Snapshot::take(process, threads, &noted, image.as_fd())
                .and_then(|snapshot| file::seal(&snapshot, image.as_fd(), &remaining.stamp, head.as_fd())),
            None => Err(SnapshotError::Refused("it was taken before".to_owned())),
        };
        match taken {
            Ok(()) => setup.tell(&Message::Snapshot, None),
            Err(SnapshotError::Refused(why)) => setup.tell(&Message::Refused(why), None),
            Err(error) => setup.tell(&Message::Refused(format!("the snapshot failed: {error}")), None),
        }
        end_process(0)
    }));
    task.run();
    end_process(0)
}
