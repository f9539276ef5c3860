//! Pages of a clone that its call will write, apart from the image: copies of them, one after the other, in memory of their own.
//!
//! The copies lie in one area, filled by one read before KVM knows it, in huge pages where it is worth one: a copy made where the page lies
//! costs a fault and a page of the host each, ten times as much. The guest's tables lead to the area; everything of the monitor that takes
//! a guest address comes here through `access` or `host_side`. The pages are chosen by `serve` (`working_set`), all of them from private
//! mappings of the image. A page leaves the area when what is mapped there changes: it is forgotten, or goes home if it is moved; none
//! ever enters.
//!
//! As the window, the area is the process's: a child of a fork has its own copy, at the same place.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::host_side;
use crate::errno::Errno;
use crate::vm::layout::{APART_HOST, APART_MAX, APART_PHYSICAL, HOST_BASE, LARGE_PAGE, PAGE, page_down};

/// A place in the area and the page that it is for.
struct Place {
    page: u64,
    left: AtomicBool,
}

/// The places of the area, by the addresses of their pages.
#[derive(Default)]
struct Area(Box<[Place]>);

static AREA: OnceLock<Area> = OnceLock::new();

impl Area {
    fn new(pages: &[u64]) -> Self {
        let place = |page: &u64| Place {
            page: *page,
            left: AtomicBool::new(false),
        };
        Self(pages.iter().map(place).collect())
    }

    /// The places whose pages begin in a range and are here.
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &Place)> {
        let first = self.0.partition_point(|place| place.page < start);
        let beyond = self.0.partition_point(|place| place.page < end).max(first);
        (first as u64..)
            .zip(&self.0[first..beyond])
            .filter(|(_, place)| !place.left.load(Ordering::Acquire))
    }

    /// The same as runs of places: the first, and how many.
    fn runs(&self, start: u64, end: u64) -> Vec<(u64, usize)> {
        let mut runs: Vec<(u64, usize)> = Vec::new();
        for (number, _) in self.within(start, end) {
            match runs.last_mut() {
                Some((first, count)) if *first + *count as u64 == number => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
        runs
    }

    fn find(&self, page: u64) -> Option<u64> {
        self.within(page, page + PAGE).next().map(|(number, _)| number)
    }
}

/// The area, if there is one.
fn area() -> Option<&'static Area> {
    AREA.get()
}

/// How many pages go into huge ones, when there are so many: in the last, too, if it is at least half full.
pub fn huge(pages: u64) -> u64 {
    let each = LARGE_PAGE / PAGE;
    (pages + each / 2) / each * each
}

/// From now on these pages are apart.
///
/// Preconditions: the guest's tables do not lead to them yet; nobody touches them before `fill`.
pub fn choose(pages: &[u64]) -> Result<(), Errno> {
    if pages.len() as u64 * PAGE > APART_MAX || !pages.is_sorted() {
        return Err(Errno::INVAL);
    }
    AREA.set(Area::new(pages)).map_err(|_| Errno(libc::EBUSY))
}

/// Fills the area with copies of its pages, which `content` has in the same order.
pub fn fill(content: &OwnedFd) -> Result<(), Errno> {
    match bytes() {
        0 => Ok(()),
        length => host_side::fill_area(length, huge(length / PAGE) * PAGE, content),
    }
}

/// Bytes of the area: what the VM's slot must cover.
pub fn bytes() -> u64 {
    area().map_or(0, |area| area.0.len() as u64 * PAGE)
}

/// Where a page lies in the guest's physical memory.
pub fn physical(page: u64) -> u64 {
    let found = area().and_then(|area| area.find(page));
    found.map_or(page, |number| APART_PHYSICAL + number * PAGE)
}

/// Whether a page of a range is here.
pub fn any(start: u64, end: u64) -> bool {
    area().is_some_and(|area| area.within(start, end).next().is_some())
}

/// A range of guest memory as ranges of the monitor's: (address, length).
pub struct Spans {
    at: u64,
    end: u64,
}

pub fn spans(address: u64, length: u64) -> Spans {
    Spans {
        at: address,
        end: address.saturating_add(length),
    }
}

impl Iterator for Spans {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        if at >= self.end {
            return None;
        }
        let Some(area) = area() else {
            self.at = self.end;
            return Some((HOST_BASE + at, self.end - at));
        };
        let page = page_down(at);
        let mut here = area.within(page, self.end).peekable();
        let host = match here.peek() {
            Some((number, place)) if place.page == page => {
                let host = APART_HOST + number * PAGE + (at - page);
                // Neighbours in the guest are neighbours here, if all are here.
                let mut next = page;
                while here.next_if(|(_, place)| place.page == next).is_some() {
                    next += PAGE;
                }
                self.at = next.min(self.end);
                host
            }
            Some((_, place)) => {
                self.at = place.page;
                HOST_BASE + at
            }
            None => {
                self.at = self.end;
                HOST_BASE + at
            }
        };
        Some((host, self.at - at))
    }
}

/// What is mapped in a range goes, or its content does.
///
/// Preconditions: the guest's tables do not lead to these pages any more. That KVM forgets them, too, is the host's part.
pub fn forget(start: u64, end: u64) {
    let Some(area) = area() else { return };
    for (first, count) in area.runs(start, end) {
        for (_, place) in area.within(start, end).take(count) {
            place.left.store(true, Ordering::Release);
        }
        host_side::empty_area(first * PAGE, count as u64 * PAGE);
    }
}

/// The pages of a range become pages where their addresses are, which have this protection.
pub fn go_home(start: u64, end: u64, protection: i32) -> Result<(), Errno> {
    let Some(area) = area() else { return Ok(()) };
    for (number, place) in area.within(start, end) {
        host_side::bring_home(place.page, APART_HOST + number * PAGE, protection)?;
        place.left.store(true, Ordering::Release);
        host_side::empty_area(number * PAGE, PAGE);
    }
    Ok(())
}

/// Gives the pages of a range the protection that the range has been given.
pub fn protect(start: u64, end: u64, protection: i32) -> Result<(), Errno> {
    let Some(area) = area() else { return Ok(()) };
    area.runs(start, end)
        .into_iter()
        .try_for_each(|(first, count)| host_side::protect_area(first * PAGE, count as u64 * PAGE, protection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_until_their_pages_leave() {
        let area = Area::new(&[0x1000, 0x2000, 0x5000]);
        let numbers =
            |start, end| -> Vec<u64> { area.within(start, end).map(|(number, _)| number).collect() };
        assert_eq!(numbers(0, 0x6000), [0, 1, 2]);
        assert_eq!(numbers(0x2000, 0x5000), [1]);
        assert_eq!(area.find(0x5000), Some(2));
        area.0[1].left.store(true, Ordering::Release);
        assert_eq!((area.find(0x2000), area.find(0x3000)), (None, None));
        assert_eq!(numbers(0, 0x6000), [0, 2]);
        assert!(numbers(0x6000, 0x1000).is_empty());
    }

    #[test]
    fn half_a_huge_page_is_worth_one() {
        assert_eq!((huge(255), huge(256), huge(512), huge(700)), (0, 512, 512, 512));
        assert_eq!(huge(768), 1024);
    }
}
