//! Seeds of random waits.

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// A seed for the waits between attempts to connect, another one at each call, so that two servers,
/// in one process or in several, do not connect in step.
pub(super) fn jitter_seed() -> u64 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    u64::from(process::id()) << 32 | u64::from(CALLS.fetch_add(1, Relaxed))
}
