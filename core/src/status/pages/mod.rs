//! The pages, and the response with each of them.

mod connections;
mod html;
mod json;
mod overview;

use self::connections::ConnectionList;
use super::{
    http::{PLAIN, Response, StatusCode},
    metrics::{self, Exposition},
    server::Inner,
};
use crate::Instant;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// `/`: what the server is, its state and its counts.
    Overview,
    /// `/healthz`: the server answers.
    Health,
    /// `/readyz`: whether connections are accepted and no stop is requested.
    Ready,
    /// `/metrics`: all counts.
    Metrics(Exposition),
    /// `/connections`: the open connections.
    Connections(ListFormat),
}

/// The format of the list of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListFormat {
    /// A table for a terminal.
    Text,
    /// For programs.
    Json,
    /// For a browser. The page renews itself.
    Html,
}

impl Page {
    /// Whether making and sending the page is expensive, so that it is limited.
    pub(super) fn is_expensive(self) -> bool {
        match self {
            Self::Overview | Self::Metrics(_) | Self::Connections(_) => true,
            Self::Health | Self::Ready => false,
        }
    }

    /// The response with the page.
    pub(super) fn respond(self, server: &Inner, now: Instant) -> Response {
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
