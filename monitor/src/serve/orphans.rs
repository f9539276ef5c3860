//! Processes that an instance leaves behind.
//!
//! `serve` is the one that orphans of its instances come to (prctl(2), PR_SET_CHILD_SUBREAPER). While an instance lives its own first
//! process is nearer, so a child of `serve`, or of the namespace's init, that is no instance has outlived one, however it got away: by a double fork, a session
//! of its own, or because its parent was killed. It is killed, and what it leaves behind comes here next. The list is the kernel's, so
//! nothing that a guest says or hides matters.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::errno::Errno;
use crate::sys;

/// The kernel's lists of children: of this process's first thread, and of the first process of its children's namespace, where
/// orphans go if there is one.
pub struct Orphans(Vec<OwnedFd>);

impl Orphans {
    /// Makes this process the one that orphans come to.
    ///
    /// Preconditions: before the jail, which lets nobody open the lists. `proc` is a /proc that knows this process.
    pub fn adopt(proc: BorrowedFd<'_>, init: Option<i32>) -> Result<Self, Errno> {
        sys::adopt_orphans()?;
        let open = |path: &CStr| crate::fs::open_below(proc, path);
        let mut lists = vec![open(c"thread-self/children")?];
        if let Some(init) = init {
            let path = CString::new(format!("{init}/task/{init}/children")).map_err(|_| Errno::INVAL)?;
            lists.push(open(&path)?);
        }
        Ok(Self(lists))
    }

    /// Kills every child that is none of `known`. Says whether there was one.
    pub fn kill(&self, known: &HashSet<i32>) -> bool {
        let mut found = false;
        for pid in self.children() {
            if !known.contains(&pid) {
                found = true;
                // Its own child, so the number cannot be another's. One that has ended already is waited for like all.
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
        found
    }

    fn children(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for list in &self.0 {
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = sys::read_at(list, &mut buffer, text.len() as u64) {
                text.extend_from_slice(&buffer[..length]);
            }
            let text = String::from_utf8_lossy(&text);
            found.extend(
                text.split_ascii_whitespace()
                    .filter_map(|word| word.parse::<i32>().ok()),
            );
        }
        found
    }
}
