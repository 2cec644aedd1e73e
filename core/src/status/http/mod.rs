//! The part of HTTP/1.1 that the status server needs (RFC 9112): heads of requests, and responses.

mod accept;
mod host;
mod input;
mod request;
mod response;
mod status_code;

pub(super) use self::{
    accept::negotiate,
    input::{Found, Input},
    request::{RequestHead, check_line},
    response::{NOT_HTTP, PLAIN, Refusal, Response, TOO_LATE, TOO_LONG},
};
pub use self::{host::AllowedHosts, status_code::StatusCode};
