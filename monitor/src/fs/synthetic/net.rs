//! /proc/self/net of the guest: the interfaces that an instance has. Of its sockets nothing is listed.

use super::{Entry, Fixed};
use crate::network::interfaces;

use Fixed::Text;

#[rustfmt::skip]
pub const FILES: &[Entry] = &[
    ("arp", Text("IP address       HW type     Flags       HW address            Mask     Device\n")),
    ("dev", Text(interfaces::DEVICES)),
    ("if_inet6", Text(interfaces::ADDRESSES6)),
    ("ipv6_route", Text("")),
    ("raw", Text("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n")),
    ("raw6", Text("  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n")),
    ("route", Text("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n")),
    ("tcp", Text("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n")),
    ("tcp6", Text("  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n")),
    ("udp", Text("   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n")),
    ("udp6", Text("  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n")),
    ("unix", Text("Num       RefCount Protocol Flags    Type St Inode Path\n")),
];
