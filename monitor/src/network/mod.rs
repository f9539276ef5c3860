//! The network of an instance.
//!
//! Inside, every socket is a unix socket of the host, whatever the guest thinks it is: a TCP port, a UDP port, an abstract name or a
//! socket file is a *name* in the instance's private directory ([`keys`], [`place`]), which only the instance's own processes can
//! reach. So readiness, blocking, half closes, queues and the passing on to children are the kernel's, no port of the node is ever
//! open, and no address of the guest's reaches a system call of the host. What family a socket pretends to be of is written on the
//! socket itself ([`host::Mark`]), so it survives dup, fork, exec and SCM_RIGHTS without a table.
//!
//! What a netlink socket would be told by a kernel, the monitor tells ([`netlink`], [`interfaces`]).
//!
//! To the outside, if the policy of the function ([`policy`]) has a rule: an instance asks the *broker*, a process apart, which alone can
//! make sockets of a network ([`broker`], [`request`]). Names come from a resolver of its ([`resolver`], [`dns`]).
pub mod address;
pub mod broker;
pub mod dns;
pub mod host;
pub mod interfaces;
pub mod keys;
pub mod netlink;
pub mod place;
pub mod policy;
pub mod request;
pub mod resolver;
pub mod sockets;
