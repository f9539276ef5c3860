//! The first stack of a program: strings, arguments, environment, auxiliary vector (System V ABI for x86-64, 3.4.1).

use std::ffi::{CStr, CString};

use crate::errno::Errno;
use crate::memory::access;
use crate::sys;

/// Most bytes of arguments and environment (a quarter of the stack, as the kernel).
const ROOM: u64 = 2 << 20;

const AT_HWCAP2: u64 = 26;
const AT_MINSIGSTKSZ: u64 = 51;

/// What the auxiliary vector tells.
pub struct Facts<'a> {
    pub headers: u64,
    pub header_count: u16,
    pub entry: u64,
    pub interpreter_base: u64,
    pub uid: u32,
    pub gid: u32,
    pub vdso: u64,
    pub path: &'a CStr,
}

/// Writes the stack below `top`; gives the stack pointer and the auxiliary vector.
pub fn build(
    top: u64,
    args: &[CString],
    env: &[CString],
    facts: &Facts<'_>,
) -> Result<(u64, Vec<u8>), Errno> {
    let mut at = top - 16;
    let lowest = top - ROOM;
    let mut push = |bytes: &[u8]| -> Result<u64, Errno> {
        at = at
            .checked_sub(bytes.len() as u64)
            .filter(|at| *at > lowest)
            .ok_or(Errno(libc::E2BIG))?;
        access::write_bytes(at, bytes)?;
        Ok(at)
    };
    let path = push(facts.path.to_bytes_with_nul())?;
    // Strings lie in ascending order: some programs overwrite them in place to show a title.
    let mut place = |strings: &[CString]| -> Result<Vec<u64>, Errno> {
        let mut places: Vec<u64> = strings
            .iter()
            .rev()
            .map(|string| push(string.to_bytes_with_nul()))
            .collect::<Result<_, _>>()?;
        places.reverse();
        Ok(places)
    };
    let env_places = place(env)?;
    let arg_places = place(args)?;
    let platform = push(b"x86_64\0")?;
    let mut random = [0u8; 16];
    sys::random(&mut random)?;
    let random = push(&random)?;
    let host = sys::auxiliary;
    let auxiliary: [(u64, u64); 19] = [
        (libc::AT_SYSINFO_EHDR, facts.vdso),
        (libc::AT_PHDR, facts.headers),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, facts.header_count.into()),
        (libc::AT_PAGESZ, 4096),
        (libc::AT_BASE, facts.interpreter_base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, facts.entry),
        (libc::AT_RANDOM, random),
        (libc::AT_HWCAP, host(libc::AT_HWCAP)),
        (AT_HWCAP2, host(AT_HWCAP2)),
        (libc::AT_CLKTCK, 100),
        (libc::AT_SECURE, 0),
        (libc::AT_UID, facts.uid.into()),
        (libc::AT_EUID, facts.uid.into()),
        (libc::AT_GID, facts.gid.into()),
        (libc::AT_EGID, facts.gid.into()),
        (libc::AT_PLATFORM, platform),
        (AT_MINSIGSTKSZ, host(AT_MINSIGSTKSZ)),
    ];
    let mut words = vec![arg_places.len() as u64];
    words.extend(arg_places);
    words.push(0);
    words.extend(env_places);
    words.push(0);
    let strings_end = words.len() * 8;
    words.extend(auxiliary.iter().flat_map(|(key, value)| [*key, *value]));
    words.extend([libc::AT_EXECFN, path, 0, 0]);
    let start = (random - words.len() as u64 * 8) & !15;
    if start < lowest {
        return Err(Errno(libc::E2BIG));
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    access::write_bytes(start, &bytes)?;
    Ok((start, bytes[strings_end..].to_vec()))
}
