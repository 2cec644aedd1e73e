//! The status codes of responses.

use core::fmt;

/// The status code of a response (RFC 9110, section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum StatusCode {
    /// 200: the page follows.
    Ok,
    /// 400: the request is not HTTP, or contradicts itself.
    BadRequest,
    /// 404: no page has this path.
    NotFound,
    /// 405: the method is neither `GET` nor `HEAD`.
    MethodNotAllowed,
    /// 408: the head was incomplete after
    /// [`Config::head_timeout`](super::super::Config::head_timeout).
    RequestTimeout,
    /// 413: the request has content.
    ContentTooLarge,
    /// 421: the request is for a host that is not allowed.
    MisdirectedRequest,
    /// 431: the head is too long, or has too many fields (RFC 6585, section 5).
    HeadTooLarge,
    /// 503: the server is not ready, or too many pages are requested.
    ServiceUnavailable,
    /// 505: a version of HTTP that is neither 1.0 nor 1.1.
    VersionNotSupported,
}

impl StatusCode {
    /// The number, for example 200.
    pub const fn number(self) -> u16 {
        self.row().0
    }

    /// Its number and phrase.
    const fn row(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::BadRequest => (400, "Bad Request"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::ContentTooLarge => (413, "Content Too Large"),
            Self::MisdirectedRequest => (421, "Misdirected Request"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::ServiceUnavailable => (503, "Service Unavailable"),
            Self::VersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, phrase) = self.row();
        write!(f, "{number} {phrase}")
    }
}
