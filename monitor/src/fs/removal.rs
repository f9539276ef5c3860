//! Deleting what an instance left of its private directories.
//!
//! A guest decides how deep its trees are (by renaming, deeper than any path is long), so nothing here goes down with them: a
//! directory that is not empty gives its own directories up to the top, pass after pass, until all are empty.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::host;
use crate::errno::Errno;

/// Deletes `<parent>/<instance>`; there may be nothing.
pub fn remove_instance(parent: &Path, instance: &str) {
    let top = parent.join(instance);
    // The guest is gone and was the only one to write here: what cannot be deleted now goes when `serve` starts the next time.
    match remove_tree(&top) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("mayfly-monitor: {}: {error}", top.display());
        }
        _ => {}
    }
}

/// Removes one name from a directory of the monitor's, if it is there.
pub fn remove_name(directory: &OwnedFd, name: &CStr) {
    // What is left goes with the directory.
    let _ = host::unlink(host::borrow(directory), name, 0);
}

/// The names in a directory of the monitor's.
pub fn names_in(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let open = || host::open(host::borrow(directory), c".", libc::O_RDONLY | libc::O_DIRECTORY);
    host::names(open()?)
}

/// Deletes a tree of any depth with one open directory at a time.
pub fn remove_tree(top: &Path) -> io::Result<()> {
    let mut moved: u64 = 0;
    loop {
        let mut found = false;
        for entry in std::fs::read_dir(top)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            found = true;
            empty(&entry.path(), top, &mut moved)?;
            std::fs::remove_dir(entry.path())?;
        }
        if !found {
            return std::fs::remove_dir(top);
        }
    }
}

/// Empties a directory: files go, directories that are not empty move to `top` under names of their own.
fn empty(directory: &Path, top: &Path, moved: &mut u64) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            std::fs::remove_file(entry.path())?;
        } else if std::fs::remove_dir(entry.path()).is_err() {
            // The names at the top are the monitor's: a guest's begin one level below.
            std::fs::rename(entry.path(), top.join(format!("~{moved}")))?;
            *moved += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_paths_and_descriptors_goes() {
        let parent = std::env::temp_dir().join(format!("mayfly-removal-{}", std::process::id()));
        let top = parent.join("instance");
        std::fs::create_dir_all(top.join("tmp")).unwrap();
        // Nested by renaming, from the inside out: 3,000 levels, more than descriptors and PATH_MAX allow to walk down.
        let (inner, outer) = (top.join("tmp/a"), top.join("tmp/b"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("file"), b"x").unwrap();
        for _ in 0..3000 {
            std::fs::create_dir(&outer).unwrap();
            std::fs::rename(&inner, outer.join("a")).unwrap();
            std::fs::rename(&outer, &inner).unwrap();
        }
        std::fs::write(top.join("tmp/~0"), b"a name like ours").unwrap();
        remove_instance(&parent, "instance");
        assert!(!top.exists());
        remove_instance(&parent, "instance");
        std::fs::remove_dir(&parent).unwrap();
    }
}
