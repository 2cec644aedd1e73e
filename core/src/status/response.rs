//! The responses: their codes, and how they go out.

use core::fmt;
use std::io::Write;

use crate::Fault;

/// How a request was answered (RFC 9110, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Here it is.
    Ok,
    /// It is not HTTP, or contradicts itself.
    BadRequest,
    /// There is no such page.
    NotFound,
    /// The pages can be read, and nothing else.
    MethodNotAllowed,
    /// The head was not whole in its time.
    RequestTimeout,
    /// It announces content.
    ContentTooLarge,
    /// It is for a host of another name.
    MisdirectedRequest,
    /// The head is too long, or has too many fields (RFC 6585, section 5).
    HeadTooLarge,
    /// The service is not ready, or too many pages are requested.
    ServiceUnavailable,
    /// HTTP, but neither 1.0 nor 1.1.
    VersionNotSupported,
}

impl Code {
    /// Its number.
    pub const fn number(self) -> u16 {
        self.row().0
    }

    /// The label and the fault of a connection that ends behind a refusal with this code.
    pub(super) const fn refusal(self) -> (&'static str, Fault) {
        let (_, _, label, fault) = self.row();
        (label, fault)
    }

    /// Its number and phrase, and its [`refusal`](Self::refusal).
    const fn row(self) -> (u16, &'static str, &'static str, Fault) {
        use Fault::{Limit, Peer, Time};
        match self {
            Self::Ok => (200, "OK", "bad_request", Peer),
            Self::BadRequest => (400, "Bad Request", "bad_request", Peer),
            Self::NotFound => (404, "Not Found", "bad_request", Peer),
            Self::MethodNotAllowed => (405, "Method Not Allowed", "bad_request", Peer),
            Self::RequestTimeout => (408, "Request Timeout", "head_timeout", Time),
            Self::ContentTooLarge => (413, "Content Too Large", "content", Limit),
            Self::MisdirectedRequest => (421, "Misdirected Request", "bad_request", Peer),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large", "head_too_large", Limit),
            Self::ServiceUnavailable => (503, "Service Unavailable", "bad_request", Peer),
            Self::VersionNotSupported => (505, "HTTP Version Not Supported", "version", Peer),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, phrase, ..) = self.row();
        write!(f, "{number} {phrase}")
    }
}

/// A response before it is written down.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) code: Code,
    pub(super) content_type: &'static str,
    pub(super) content: Vec<u8>,
    /// `Content-Security-Policy`, for what a browser shows.
    pub(super) policy: Option<&'static str>,
    /// `Retry-After`: after how many seconds the same request may be answered (RFC 9110, section
    /// 10.2.3).
    pub(super) retry_after: Option<u32>,
}

impl Response {
    pub(super) fn text(code: Code, text: &str) -> Self {
        Self::new(code, PLAIN, format!("{text}\n").into_bytes())
    }

    pub(super) fn new(code: Code, content_type: &'static str, content: Vec<u8>) -> Self {
        Self { code, content_type, content, policy: None, retry_after: None }
    }

    /// As it goes out. Without the content, where it answers a `HEAD`; `closes`, where no further
    /// request is answered.
    ///
    /// There is no `Date`: a server that has no clock must not make one up (RFC 9110,
    /// section 6.6.1), and machines have none.
    pub(super) fn into_bytes(self, head_only: bool, closes: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_HEAD + self.content.len());
        let mut put = |line: fmt::Arguments<'_>| {
            bytes.write_fmt(line).expect("a vector takes all that fits the memory");
        };
        put(format_args!("HTTP/1.1 {}\r\n", self.code));
        put(format_args!("Content-Type: {}\r\n", self.content_type));
        put(format_args!("Content-Length: {}\r\n", self.content.len()));
        // What was true a moment ago is of no use, and what is in there is nobody else's business.
        put(format_args!("Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"));
        put(format_args!("Vary: Accept\r\n"));
        if let Some(policy) = self.policy {
            put(format_args!("Content-Security-Policy: {policy}\r\n"));
            put(format_args!("Referrer-Policy: no-referrer\r\n"));
        }
        if self.code == Code::MethodNotAllowed {
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

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";
/// More than any of these heads has, in bytes.
pub(super) const MAX_HEAD: usize = 1024;
