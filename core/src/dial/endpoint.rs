//! An address that is dialled for an upstream.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::shared::Shared;

/// An address that is dialled for an upstream, and the number of connections to it. An upstream
/// whose name has several addresses has an endpoint for each.
#[derive(Debug)]
pub struct Endpoint {
    upstream: Shared<str>,
    address: Shared<str>,
    open: AtomicUsize,
}

impl Endpoint {
    /// An endpoint without connections.
    pub fn new(upstream: Shared<str>, address: Shared<str>) -> Self {
        Self { upstream, address, open: AtomicUsize::new(0) }
    }

    /// The upstream, as it is configured: a `HOST:PORT` or a `unix:PATH`.
    pub fn upstream(&self) -> &Shared<str> {
        &self.upstream
    }

    /// What is dialled: an `IP:PORT`, a `unix:PATH`, or a name that was not looked up yet.
    pub fn address(&self) -> &Shared<str> {
        &self.address
    }

    /// The address, if the upstream is configured by a name.
    pub fn resolved(&self) -> Option<&str> {
        (self.address != self.upstream).then_some(&*self.address)
    }

    /// The number of connections that are open or being made.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}
