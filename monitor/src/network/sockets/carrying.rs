//! Sockets on their way: into a snapshot and out of it, and to a program that a process executes.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::address::UnixName;
use super::super::place::{PassedPlace, Place};
use super::super::request::Broker;
use super::{Numbers, Remembered, Sockets};
use crate::fs::descriptors::take_up;
use crate::sys;

/// What a snapshot keeps of them; the rest is in the descriptors.
#[derive(Clone, Serialize, Deserialize)]
pub struct SocketsState {
    called: Vec<String>,
    names: Vec<(String, UnixName)>,
    options: Vec<(RawFd, Vec<Remembered>)>,
}

/// The sockets that a program finds which a process executes. Descriptors by their numbers, which must stay open.
#[derive(Serialize, Deserialize)]
pub struct PassedSockets {
    place: PassedPlace,
    port: Option<u16>,
    connection: Option<RawFd>,
    came: bool,
    handover: Option<(RawFd, RawFd)>,
    calls: Vec<(RawFd, i32)>,
    broker: Option<RawFd>,
    state: SocketsState,
}

impl PassedSockets {
    pub fn descriptors(&self) -> Vec<RawFd> {
        let mut known = vec![self.place.directory];
        known.extend(self.connection);
        known.extend(self.broker);
        known.extend(
            self.handover
                .iter()
                .flat_map(|(beginning, end)| [*beginning, *end]),
        );
        known
    }

    pub fn has_connection(&self) -> bool {
        !self.calls.is_empty()
    }

    pub fn take_up(self) -> Sockets {
        Sockets {
            connection: self.connection.map(take_up),
            came: self.came,
            handover: self
                .handover
                .map(|(beginning, end)| (take_up(beginning), take_up(end))),
            own: Numbers {
                calls: self.calls.into_iter().collect(),
                options: self.state.options.iter().cloned().collect(),
                ..Numbers::default()
            },
            broker: self.broker.map(|fd| Arc::new(Broker(take_up(fd)))),
            ..Sockets::restore(self.place.take_up(), self.port, &self.state)
        }
    }
}

impl Sockets {
    /// What stays of them when the process goes on as another program.
    pub fn pass(&self) -> PassedSockets {
        let stays = |fd: RawFd| sys::closes_on_exec(&fd) == Ok(false);
        let calls = self.numbers().calls.iter().map(|(fd, family)| (*fd, *family));
        let state = self.state();
        PassedSockets {
            place: self.place.pass(),
            port: self.port,
            connection: self.connection.as_ref().map(AsRawFd::as_raw_fd),
            came: self.came,
            handover: self
                .handover
                .as_ref()
                .map(|(beginning, end)| (beginning.as_raw_fd(), end.as_raw_fd())),
            calls: calls.filter(|(fd, _)| stays(*fd)).collect(),
            broker: self.broker.as_ref().map(|broker| broker.0.as_raw_fd()),
            state: SocketsState {
                options: state.options.into_iter().filter(|(fd, _)| stays(*fd)).collect(),
                ..state
            },
        }
    }

    pub fn state(&self) -> SocketsState {
        SocketsState {
            called: self.called.clone(),
            names: self
                .names
                .iter()
                .map(|(key, name)| (key.clone(), name.clone()))
                .collect(),
            options: self
                .numbers()
                .options
                .iter()
                .map(|(fd, options)| (*fd, options.clone()))
                .collect(),
        }
    }

    pub fn restore(place: Place, port: Option<u16>, state: &SocketsState) -> Self {
        Self {
            called: state.called.clone(),
            names: state.names.iter().cloned().collect(),
            own: Numbers {
                options: state.options.iter().cloned().collect(),
                ..Numbers::default()
            },
            ..Self::new(place, port)
        }
    }
}
