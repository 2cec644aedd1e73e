//! Responses, and refusals of requests.

use core::fmt;
use std::io::Write;

use super::StatusCode;
use crate::{Fault, machine::impl_reason};

/// A response.
#[derive(Debug)]
pub(in crate::status) struct Response {
    code: StatusCode,
    content_type: &'static str,
    content: Vec<u8>,
    /// `Content-Security-Policy`, for pages that a browser shows.
    pub(in crate::status) policy: Option<&'static str>,
    /// `Retry-After`: the number of seconds after which the client may repeat the request (RFC
    /// 9110, section 10.2.3).
    retry_after: Option<u32>,
}

impl Response {
    /// A response with a line of plain text.
    pub(in crate::status) fn text(code: StatusCode, text: &str) -> Self {
        Self::new(code, PLAIN, format!("{text}\n").into_bytes())
    }

    pub(in crate::status) fn new(
        code: StatusCode,
        content_type: &'static str,
        content: Vec<u8>,
    ) -> Self {
        Self { code, content_type, content, policy: None, retry_after: None }
    }

    /// Encodes the response. `head_only`: without the content, for a `HEAD` request. `closes`: with
    /// `Connection: close`, since no further request is answered.
    ///
    /// There is no `Date`: a server without a clock must not send one (RFC 9110, section 6.6.1),
    /// and machines have none.
    pub(in crate::status) fn into_bytes(self, head_only: bool, closes: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_HEAD + self.content.len());
        let mut put = |line: fmt::Arguments<'_>| {
            bytes.write_fmt(line).expect("writing to a vector does not fail");
        };
        put(format_args!("HTTP/1.1 {}\r\n", self.code));
        put(format_args!("Content-Type: {}\r\n", self.content_type));
        put(format_args!("Content-Length: {}\r\n", self.content.len()));
        // A page is outdated at once, and shows addresses of clients.
        put(format_args!("Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"));
        put(format_args!("Vary: Accept\r\n"));
        if let Some(policy) = self.policy {
            put(format_args!("Content-Security-Policy: {policy}\r\n"));
            put(format_args!("Referrer-Policy: no-referrer\r\n"));
        }
        if self.code == StatusCode::MethodNotAllowed {
            put(format_args!("Allow: GET, HEAD\r\n"));
        }
        if let Some(seconds) = self.retry_after {
            put(format_args!("Retry-After: {seconds}\r\n"));
        }
        if closes {
            put(format_args!("Connection: close\r\n"));
        }
        put(format_args!("\r\n"));
        debug_assert!(bytes.len() <= MAX_HEAD, "a head of {} bytes", bytes.len());
        if !head_only {
            bytes.extend_from_slice(&self.content);
        }
        bytes
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused: {code}: {message}")]
#[non_exhaustive]
pub struct Refusal {
    /// The response's status code.
    pub code: StatusCode,
    /// The response's content.
    pub message: &'static str,
}

impl_reason!(Refusal {
    Self { code: StatusCode::RequestTimeout, .. } => ("header_timeout", Fault::Time),
    Self { code: StatusCode::ContentTooLarge, .. } => ("content", Fault::Limit),
    Self { code: StatusCode::HeadTooLarge, .. } => ("head_too_large", Fault::Limit),
    Self { code: StatusCode::VersionNotSupported, .. } => ("version", Fault::Peer),
    Self {
        code:
            StatusCode::Ok
            | StatusCode::BadRequest
            | StatusCode::NotFound
            | StatusCode::MethodNotAllowed
            | StatusCode::MisdirectedRequest
            | StatusCode::ServiceUnavailable,
        ..
    } => ("bad_request", Fault::Peer),
});

impl Refusal {
    pub(in crate::status) const fn new(code: StatusCode, message: &'static str) -> Self {
        Self { code, message }
    }

    pub(in crate::status) fn response(self) -> Response {
        let retry_after = (self.code == StatusCode::ServiceUnavailable).then_some(1);
        Response { retry_after, ..Response::text(self.code, self.message) }
    }
}

pub(in crate::status) const NOT_HTTP: Refusal =
    Refusal::new(StatusCode::BadRequest, "this is not an HTTP request");
pub(in crate::status) const TOO_LONG: Refusal = Refusal::new(
    StatusCode::HeadTooLarge,
    "the head of the request exceeds 8192 bytes or 64 fields",
);
pub(in crate::status) const TOO_LATE: Refusal =
    Refusal::new(StatusCode::RequestTimeout, "the head of the request was not complete in time");

pub(in crate::status) const PLAIN: &str = "text/plain; charset=utf-8";

/// A bound of the length of a response's head, in bytes.
const MAX_HEAD: usize = 1024;
