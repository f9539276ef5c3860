//! Whose a file is: the host's numbers of users and groups, and the guest's.
//!
//! A jailed process is a user of the node that the guest knows nothing of. Its own files are the guest's user's; the image's, where
//! they are mounted with a range of users of the node, are whose they are in the image.

/// Users (and groups) of the node that an image's are shown as: as many as a container has.
pub const USER_RANGE: u32 = 1 << 16;

/// The two kinds of numbers. The default takes them for the same, as for a program that is run by hand.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Owners {
    /// User and group of the process.
    own: Option<(u32, u32)>,
    /// Where the range begins.
    first: Option<u32>,
}

/// chown(2): leave it as it is.
const UNCHANGED: u32 = u32::MAX;

impl Owners {
    pub fn of_process(first: Option<u32>) -> Self {
        let own = crate::sys::ids();
        Self {
            own: Some(own),
            first,
        }
    }

    /// As the guest, who is `guest`, sees them.
    pub fn of_guest(&self, (user, group): (u32, u32), guest: (u32, u32)) -> (u32, u32) {
        let Some(own) = self.own else {
            return (user, group);
        };
        let see = |id: u32, own: u32, guest: u32| match self.first {
            _ if id == own => guest,
            Some(first) if (first..first + USER_RANGE).contains(&id) => id - first,
            _ => id,
        };
        (see(user, own.0, guest.0), see(group, own.1, guest.1))
    }

    /// As the host knows them; who is nobody there stays a number that a process without privileges cannot give a file to.
    pub fn of_host(&self, (user, group): (u32, u32), guest: (u32, u32)) -> (u32, u32) {
        let Some(own) = self.own else {
            return (user, group);
        };
        let mean = |id: u32, own: u32, guest: u32| match self.first {
            _ if id == guest && id != UNCHANGED => own,
            Some(first) if id < USER_RANGE => first + id,
            _ => id,
        };
        (mean(user, own.0, guest.0), mean(group, own.1, guest.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = 0x7000_0000;

    #[test]
    fn by_hand_nothing_changes() {
        let owners = Owners::default();
        assert_eq!(owners.of_guest((5, 6), (1000, 100)), (5, 6));
        assert_eq!(owners.of_host((5, 6), (1000, 100)), (5, 6));
    }

    #[test]
    fn own_files_are_the_guests_and_the_images_keep_their_owners() {
        let owners = Owners {
            own: Some((FIRST + 1000, FIRST + 100)),
            first: Some(FIRST),
        };
        let guest = (1000, 100);
        assert_eq!(owners.of_guest((FIRST + 1000, FIRST + 100), guest), guest);
        assert_eq!(owners.of_guest((FIRST, FIRST + 33), guest), (0, 33));
        assert_eq!(owners.of_host(guest, guest), (FIRST + 1000, FIRST + 100));
        assert_eq!(owners.of_host((0, 33), guest), (FIRST, FIRST + 33));
        assert_eq!(owners.of_host((UNCHANGED, 100), guest), (UNCHANGED, FIRST + 100));
        assert_eq!(owners.of_guest((65534, 65534), guest), (65534, 65534));
    }

    #[test]
    fn an_ordinary_users_files_are_the_guests() {
        let owners = Owners {
            own: Some((1000, 1000)),
            first: None,
        };
        assert_eq!(owners.of_guest((1000, 1000), (0, 0)), (0, 0));
        assert_eq!(owners.of_host((0, 0), (0, 0)), (1000, 1000));
        assert_eq!(owners.of_host((7, UNCHANGED), (0, 0)), (7, UNCHANGED));
    }
}
