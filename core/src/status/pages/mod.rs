//! The pages, and their responses.

mod connections;
mod html;
mod json;
mod overview;

use self::connections::ConnectionList;
use super::{
    http::{PLAIN, Response, StatusCode},
    metrics::{self, Exposition},
    state::ServerState,
};
use crate::Instant;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// `/`: the server's name, state and counts.
    Overview,
    /// `/healthz`: the server answers.
    Health,
    /// `/readyz`: whether connections are accepted and no shutdown is requested.
    Ready,
    /// `/metrics`: all metrics.
    Metrics(Exposition),
    /// `/connections`: the open connections.
    Connections(ListFormat),
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
    pub(super) fn is_expensive(self) -> bool {
        match self {
            Self::Overview | Self::Metrics(_) | Self::Connections(_) => true,
            Self::Health | Self::Ready => false,
        }
    }

    /// The response with the page.
    pub(super) fn respond(self, server: &ServerState, now: Instant) -> Response {
        match self {
            Self::Health => Response::text(StatusCode::Ok, "alive"),
            Self::Ready if server.is_ready() => Response::text(StatusCode::Ok, "ready"),
            Self::Ready => Response::text(StatusCode::ServiceUnavailable, "stopping"),
            Self::Overview => overview::respond(server, now),
            Self::Metrics(exposition) => {
                let text = metrics::expose(metrics::all(server, now), exposition);
                Response::new(StatusCode::Ok, exposition.content_type(), text.into_bytes())
            }
            Self::Connections(format) => {
                let list = ConnectionList::new(server, now);
                match format {
                    ListFormat::Text => {
                        Response::new(StatusCode::Ok, PLAIN, list.text().into_bytes())
                    }
                    ListFormat::Json => json::respond(&list),
                    ListFormat::Html => html::respond(&list),
                }
            }
        }
    }
}
