//! A lease in a gateway's hand, and what is left to say of it when it is over.

use super::pair::Pair;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) birth: u64,
    pub(super) bucket: u64,
    pub(super) left: Pair<u32>,
    pub(super) used: Pair<u32>,
    pub(super) last_use: u64,
    pub(super) until: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) birth: u64,
    pub(super) bucket: u64,
    pub(super) used: Pair<u32>,
    pub(super) unused: Pair<u32>,
    pub(super) last_use: u64,
}

impl Ended {
    pub(super) fn of(lease: &Lease) -> Self {
        Self {
            birth: lease.birth,
            bucket: lease.bucket,
            used: lease.used,
            unused: lease.left,
            last_use: lease.last_use,
        }
    }
}
