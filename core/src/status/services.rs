//! The services that a status server shows.

use core::mem;
use std::collections::BTreeMap;

use super::{Link, Metric, MetricsSource};
use crate::{
    Instant,
    serve::ServerHandle,
    shared::{Lock, Shared},
    shutdown::Shutdown,
};

/// A server whose status is shown.
#[derive(Clone, Debug)]
pub struct Service {
    name: Shared<str>,
    handle: ServerHandle,
    metrics_source: Option<Shared<dyn MetricsSource>>,
    listens: bool,
}

impl Service {
    /// The server with this handle, shown as `name`. `metrics_source` adds metrics to those of the
    /// server's table of connections.
    ///
    /// The name is the label `server` of the metrics. Names of more than 64 bytes make responses
    /// longer than [`Config::response_size`](super::Config::response_size).
    pub fn new(
        name: impl Into<Shared<str>>,
        handle: &ServerHandle,
        metrics_source: Option<Shared<dyn MetricsSource>>,
    ) -> Self {
        Self { name: name.into(), handle: handle.clone(), metrics_source, listens: true }
    }

    /// Sets whether the server listens: one that does not is shown as running, not as accepting
    /// connections. Default: true.
    pub fn with_listener(self, listens: bool) -> Self {
        Self { listens, ..self }
    }

    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    pub(super) fn name(&self) -> &Shared<str> {
        &self.name
    }

    pub(super) fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// The metrics of its [`MetricsSource`].
    pub(super) fn metrics(&self, now: Instant) -> Vec<Metric> {
        self.metrics_source.as_ref().map_or_else(Vec::new, |source| source.metrics(now))
    }

    /// The connections to others of its [`MetricsSource`].
    pub(super) fn links(&self, now: Instant) -> Vec<Link> {
        self.metrics_source.as_ref().map_or_else(Vec::new, |source| source.links(now))
    }

    /// Whether it was stopped on purpose, while its connections continue.
    pub(super) fn is_soft_stopped(&self) -> bool {
        self.handle.shutdown().requested() == Shutdown::SoftStop
    }

    /// Whether it accepts connections: no shutdown is requested.
    pub(super) fn is_accepting(&self) -> bool {
        self.handle.shutdown().requested() == Shutdown::None
    }
}

/// The services that a status server shows, in the order of their names. Clones are the same list.
///
/// The list can be replaced while the status server runs.
#[derive(Clone, Debug, Default)]
pub struct Services {
    list: Shared<Lock<BTreeMap<Shared<str>, Service>>>,
}

impl Services {
    /// Replaces the list. Names must be unique: of services with the same name, the last one is
    /// shown.
    pub fn set(&self, services: impl IntoIterator<Item = Service>) {
        let named = services.into_iter().map(|service| (service.name.clone(), service));
        let mut services = named.collect();
        // The old list is dropped outside of the lock.
        self.list.with(|list| mem::swap(list, &mut services));
    }

    /// The services at this moment.
    pub(super) fn list(&self) -> Vec<Service> {
        self.list.with(|list| list.values().cloned().collect())
    }
}

impl<const N: usize> From<[Service; N]> for Services {
    fn from(services: [Service; N]) -> Self {
        let list = Self::default();
        list.set(services);
        list
    }
}
