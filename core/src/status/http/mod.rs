//! The part of HTTP/1.1 that the status server needs (RFC 9112): heads of requests, and responses.

mod accept;
mod head_search;
mod host;
mod request;
mod response;
mod status_code;

pub(super) use self::{
    accept::negotiate,
    head_search::{Found, HeadSearch},
    request::{RequestHead, check_line},
    response::{NOT_HTTP, PLAIN, Response, TOO_LATE, TOO_LONG},
};
pub use self::{host::AllowedHosts, response::Refusal, status_code::StatusCode};
