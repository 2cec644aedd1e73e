//! The pages, and their responses.

mod connections;
mod html;
mod json;
mod overview;

use self::connections::ConnectionList;
use super::{
    Service,
    http::{PLAIN, Refusal, Response, StatusCode},
    metrics::{self, Exposition},
    state::ServerState,
};
use crate::Instant;

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// `/`: the state and the counts of the servers.
    Overview(OverviewFormat),
    /// `/healthz`: the server answers.
    Health,
    /// `/readyz`: whether all servers accept connections, and no shutdown is requested.
    Ready,
    /// `/metrics`: all metrics.
    Metrics(Exposition),
    /// `/connections`: the open connections.
    Connections {
        format: ListFormat,
        /// The name of the server whose connections are listed. `None`: all servers.
        server: Option<String>,
    },
}

/// The format of the state and the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OverviewFormat {
    /// JSON, for programs.
    Json,
    /// A page for a browser, which refreshes itself.
    Html,
}

/// The format of the list of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListFormat {
    /// A table for a terminal.
    Text,
    /// JSON, for programs.
    Json,
    /// A page for a browser, which refreshes itself.
    Html,
}

impl Page {
    /// Whether the page is expensive to make and to send, and therefore limited.
    pub(super) fn is_expensive(&self) -> bool {
        match self {
            Self::Overview(_) | Self::Metrics(_) | Self::Connections { .. } => true,
            Self::Health | Self::Ready => false,
        }
    }

    /// The response with the page.
    pub(super) fn respond(self, server: &ServerState, now: Instant) -> Response {
        match self {
            Self::Health => Response::text(StatusCode::Ok, "alive"),
            Self::Ready if server.are_ready(&server.services.list()) => {
                Response::text(StatusCode::Ok, "ready")
            }
            Self::Ready => Response::text(StatusCode::ServiceUnavailable, "stopping"),
            Self::Overview(OverviewFormat::Json) => overview::respond(server, now),
            Self::Overview(OverviewFormat::Html) => html::dashboard(),
            Self::Metrics(exposition) => {
                let text = metrics::expose(metrics::all(server, now), exposition);
                Response::new(StatusCode::Ok, exposition.content_type(), text.into_bytes())
            }
            Self::Connections { format, server: name } => {
                let mut services = server.services.list();
                if let Some(name) = name {
                    services.retain(|service| **service.name() == *name);
                    if services.is_empty() {
                        return NO_SUCH_SERVER.response();
                    }
                }
                let list = ConnectionList::new(server, &services, now);
                match format {
                    ListFormat::Text => {
                        Response::new(StatusCode::Ok, PLAIN, list.text().into_bytes())
                    }
                    ListFormat::Json => json::respond(&list),
                    ListFormat::Html => html::connections(&list),
                }
            }
        }
    }
}

/// The state of services, in one line.
fn message(server: &ServerState, services: &[Service]) -> String {
    if let [service] = services {
        let is = match server.is_ready(service) {
            true if service.listens() => "is accepting connections",
            true => "is running",
            false => "is stopping",
        };
        return format!("{} {is}", service.name());
    }
    let ready = services.iter().filter(|service| server.is_ready(service)).count();
    format!("{ready} of {} servers are accepting connections", services.len())
}

const NO_SUCH_SERVER: Refusal = Refusal::new(StatusCode::NotFound, "no server has this name");
