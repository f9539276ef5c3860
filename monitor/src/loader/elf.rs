//! ELF files: 64-bit, x86-64, executable or shared (elf(5)). The file is a stranger's: every field is checked.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{LoadError, Opened};
use crate::errno::Errno;
use crate::memory::FileAt;
use crate::memory::access;
use crate::memory::space::Space;
use crate::sys;
use crate::vm::layout::{LARGE_PAGE, PAGE, WINDOW, page_down, page_up};

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const HEADERS_MAX: u16 = 64;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    size: u16,
    program_size: u16,
    program_count: u16,
    section_size: u16,
    section_count: u16,
    names: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    in_file: u64,
    in_memory: u64,
    align: u64,
}

/// The parts of an ELF file that matter for running it.
pub struct Image {
    entry: u64,
    segments: Vec<Segment>,
    headers_offset: u64,
    pub header_count: u16,
    pub relocatable: bool,
    pub interpreter: Option<CString>,
    /// The program keeps code on its stack.
    pub runs_stack: bool,
}

/// Where an image lies in memory.
pub struct Mapped {
    pub entry: u64,
    /// Address of its program headers.
    pub headers: u64,
    /// End of its last segment.
    pub end: u64,
}

/// Reads at an offset until `to` is full or the file ends.
pub fn read_at(file: &impl AsRawFd, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < to.len() {
        let step = sys::read_at(file, &mut to[done..], offset + done as u64)?;
        if step == 0 {
            break;
        }
        done += step;
    }
    Ok(done)
}

/// How far into a file its large code is (`Image::large_code`), if it is a library.
///
/// Preconditions: it is a regular file.
pub fn large_code_of(file: &impl AsRawFd) -> Option<u64> {
    let image = Image::read(file, "").ok().filter(|image| image.relocatable)?;
    let first = page_down(image.segments.first()?.address);
    Some(image.large_code()? - first)
}

impl Image {
    /// The address of code that fills 2 MiB: where it begins on such a boundary, a clone has one entry of KVM's tables for so much of it.
    pub fn large_code(&self) -> Option<u64> {
        let fills = |segment: &&Segment| segment.flags & PF_X != 0 && segment.in_file >= LARGE_PAGE;
        let found = self.segments.iter().find(fills);
        found.map(|segment| page_down(segment.address))
    }

    pub fn read(file: &impl AsRawFd, path: &str) -> Result<Self, LoadError> {
        let format = |why| LoadError::Format {
            path: path.to_owned(),
            why,
        };
        let read = |to: &mut [u8], offset| {
            let length = read_at(file, to, offset).map_err(|source| LoadError::Open {
                path: path.to_owned(),
                source,
            })?;
            if length == to.len() {
                Ok(())
            } else {
                Err(format("the file is cut short"))
            }
        };
        let mut magic = [0u8; 4];
        read(&mut magic, 0)?;
        if magic != *b"\x7fELF" {
            return Err(format("neither an ELF file nor a script with #!"));
        }
        let mut header = <Header as zerocopy::FromZeros>::new_zeroed();
        read(header.as_mut_bytes(), 0)?;
        if header.machine != EM_X86_64 {
            return Err(LoadError::Machine {
                path: path.to_owned(),
                machine: machine(header.machine),
            });
        }
        if header.ident[4..6] != [2, 1] {
            return Err(format("not a 64-bit little-endian file"));
        }
        if header.kind != ET_EXEC && header.kind != ET_DYN {
            return Err(format("not an executable"));
        }
        if usize::from(header.program_size) != size_of::<Segment>()
            || header.program_count == 0
            || header.program_count > HEADERS_MAX
        {
            return Err(format("unusable program headers"));
        }
        let mut all: Vec<Segment> = (0..header.program_count)
            .map(|_| zerocopy::FromZeros::new_zeroed())
            .collect();
        read(all.as_mut_slice().as_mut_bytes(), header.program_headers)?;
        let mut interpreter = None;
        if let Some(segment) = all.iter().find(|segment| segment.kind == PT_INTERP) {
            let length = usize::try_from(segment.in_file)
                .ok()
                .filter(|length| (2..=4096).contains(length));
            let mut name = vec![0; length.ok_or_else(|| format("unusable interpreter"))?];
            read(&mut name, segment.offset)?;
            interpreter = Some(CString::from_vec_with_nul(name).map_err(|_| format("unusable interpreter"))?);
        }
        let runs_stack = all
            .iter()
            .any(|segment| segment.kind == PT_GNU_STACK && segment.flags & PF_X != 0);
        let segments: Vec<Segment> = all
            .into_iter()
            .filter(|segment| segment.kind == PT_LOAD && segment.in_memory > 0)
            .collect();
        let mut last = 0;
        for segment in &segments {
            let end = segment
                .address
                .checked_add(segment.in_memory)
                .filter(|end| *end < WINDOW / 2);
            if end.is_none() || segment.address < last || segment.in_file > segment.in_memory {
                return Err(format("segments that overlap or do not fit"));
            }
            if segment.address % PAGE != segment.offset % PAGE {
                return Err(format("a segment that is not aligned"));
            }
            last = segment.address;
        }
        if segments.is_empty() {
            return Err(format("no segments"));
        }
        Ok(Self {
            entry: header.entry,
            segments,
            headers_offset: header.program_headers,
            header_count: header.program_count,
            relocatable: header.kind == ET_DYN,
            interpreter,
            runs_stack,
        })
    }

    /// Bytes from the base to the end.
    pub fn span(&self) -> u64 {
        self.segments
            .last()
            .map_or(0, |last| page_up(last.address + last.in_memory).unwrap_or(0))
    }

    /// Maps the segments at `base`.
    pub fn map(&self, space: &mut Space, file: &Opened, base: u64, path: &str) -> Result<Mapped, LoadError> {
        let mut headers = 0;
        for segment in &self.segments {
            map_segment(space, file, base, segment).map_err(|source| LoadError::Map {
                path: path.to_owned(),
                source,
            })?;
            let behind = self.headers_offset.checked_sub(segment.offset);
            if let Some(behind) = behind.filter(|behind| *behind < segment.in_file) {
                headers = base + segment.address + behind;
            }
        }
        Ok(Mapped {
            // As in the kernel, which judges no entry: a program that begins nowhere ends by SIGSEGV.
            entry: base.wrapping_add(self.entry),
            headers,
            end: base + self.span(),
        })
    }
}

fn map_segment(space: &mut Space, file: &Opened, base: u64, segment: &Segment) -> Result<(), Errno> {
    let bits = [(PF_R, 1), (PF_W, 2), (PF_X, 4)]
        .iter()
        .filter(|(flag, _)| segment.flags & flag != 0)
        .fold(0, |bits, (_, bit)| bits | bit);
    let start = base + segment.address;
    let page = page_down(start);
    let file_end = start + segment.in_file;
    let memory_end = page_up(start + segment.in_memory).ok_or(Errno::NOMEM)?;
    let mut mapped_end = page;
    let fixed = libc::MAP_PRIVATE | libc::MAP_FIXED;
    if segment.in_file > 0 {
        let offset = page_down(segment.offset);
        let file = FileAt {
            fd: file.fd.as_raw_fd(),
            offset,
            large: None,
            file: file.shown.clone(),
        };
        space.map(page, file_end - page, bits, fixed, Some(file))?;
        mapped_end = page_up(file_end).ok_or(Errno::NOMEM)?;
        if bits & 2 != 0 && mapped_end > file_end {
            // What the file has behind the segment is not the program's: the rest of the page is zero.
            let rest = mapped_end.min(memory_end) - file_end;
            access::write_bytes(
                file_end,
                &vec![0; usize::try_from(rest).map_err(|_| Errno::NOMEM)?],
            )?;
        }
    }
    if memory_end > mapped_end {
        space.map(
            mapped_end,
            memory_end - mapped_end,
            bits,
            fixed | libc::MAP_ANONYMOUS,
            None,
        )?;
    }
    Ok(())
}

/// The name of a processor, for people.
fn machine(number: u16) -> String {
    match number {
        3 => "x86, 32-bit".to_owned(),
        40 => "ARM, 32-bit".to_owned(),
        183 => "ARM64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("ELF machine {other}"),
    }
}
