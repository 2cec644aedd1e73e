//! The head of a request, parsed.

use httparse::EMPTY_HEADER;

use super::{
    Refusal, StatusCode,
    host::host_of,
    response::{NOT_HTTP, TOO_LONG},
};

/// The head of a request.
#[derive(Debug)]
pub(in crate::status) struct RequestHead<'a> {
    pub(in crate::status) method: &'a str,
    pub(in crate::status) path: &'a str,
    pub(in crate::status) query: &'a str,
    /// The host that the request names, without a port; `None` in HTTP/1.0 without a `Host` field.
    pub(in crate::status) host: Option<&'a str>,
    /// The values of all `Accept` fields.
    pub(in crate::status) accept: Vec<&'a str>,
    /// Content follows the head.
    pub(in crate::status) has_content: bool,
    /// Further requests may follow.
    pub(in crate::status) keep_alive: bool,
}

impl<'a> RequestHead<'a> {
    /// Parses a whole head.
    ///
    /// # Errors
    /// It is not a valid head, or it does not say where the next request begins. Close the
    /// connection after the response.
    pub(in crate::status) fn parse(head: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(NOT_HTTP),
            Err(httparse::Error::TooManyHeaders) => return Err(TOO_LONG),
            Err(_) => return Err(bad_request("a header field is malformed")),
        }
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        let is_1_1 = parsed.version == Some(1);
        let fields = Fields(parsed.headers);

        let (authority, path, query) = split_target(target);
        let is_named = |host: &&str| !host.is_empty();
        let target_host =
            authority.map(|host| host_of(host).filter(is_named).ok_or(BAD_HOST)).transpose()?;
        let field_host = match fields.values("host").collect::<Vec<_>>()[..] {
            // HTTP/1.0 has no `Host` field. More than one is an error in HTTP/1.0 as well (RFC
            // 9112, section 3.2).
            [] if !is_1_1 => None,
            [host] => Some(host_of(host).ok_or(BAD_HOST)?),
            [] | [..] => return Err(bad_request("one Host field is required")),
        };
        let has_content = fields.has_content()?;
        let is_close = |token: &str| token.eq_ignore_ascii_case("close");
        Ok(Self {
            method,
            path,
            query,
            host: target_host.or(field_host),
            accept: fields.values("accept").collect(),
            has_content,
            keep_alive: is_1_1 && !has_content && !fields.tokens("connection").any(is_close),
        })
    }
}

/// Checks a request line, with its line end, before the rest of the head has arrived.
///
/// # Errors
/// It is not a request line of HTTP/1.0 or HTTP/1.1. Close the connection after the response.
pub(in crate::status) fn check_line(line: &[u8]) -> Result<(), Refusal> {
    match httparse::Request::new(&mut []).parse(line) {
        // Without room for a field, the parser stops after the request line.
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Ok(()),
        Err(httparse::Error::Version) if is_other_version(line) => {
            Err(Refusal::new(StatusCode::VersionNotSupported, "this server speaks HTTP/1.1"))
        }
        Err(_) => Err(NOT_HTTP),
    }
}

/// Whether the line ends in a version of HTTP (RFC 9112, section 2.3).
fn is_other_version(line: &[u8]) -> bool {
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([major]) => major.is_ascii_digit(),
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some(_) | None => false,
    }
}

/// The authority, if the target names one (RFC 9112, section 3.2.2), the path, and the query.
fn split_target(target: &str) -> (Option<&str>, &str, &str) {
    let (target, query) = target.split_once('?').unwrap_or((target, ""));
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    match scheme.and_then(|_| target.get(7..)) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            // An empty path means `/` (RFC 9110, section 4.2.3).
            (Some(authority), if path.is_empty() { "/" } else { path }, query)
        }
        None => (None, target, query),
    }
}

struct Fields<'a, 'b>(&'a [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// The values of all fields called `name`. A value that is not UTF-8 becomes U+FFFD, which is
    /// valid in none of these fields.
    fn values(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| core::str::from_utf8(field.value).unwrap_or("\u{fffd}").trim())
    }

    /// The tokens of all fields called `name`, whose values are comma-separated lists.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.values(name).flat_map(|value| value.split(',').map(str::trim))
    }

    /// Whether content follows the head (RFC 9112, section 6).
    ///
    /// # Errors
    /// The fields are invalid or contradict each other. Two servers that interpret them differently
    /// allow request smuggling (RFC 9112, section 11.2).
    fn has_content(&self) -> Result<bool, Refusal> {
        let mut lengths = self.tokens("content-length");
        let length = lengths.next();
        let valid = |length: &str| !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        if length.is_some_and(|length| !valid(length)) || lengths.any(|other| Some(other) != length)
        {
            return Err(bad_request("Content-Length is invalid"));
        }
        let is_coded = self.values("transfer-encoding").next().is_some();
        if is_coded && length.is_some() {
            return Err(bad_request("Content-Length and Transfer-Encoding exclude each other"));
        }
        Ok(is_coded || length.is_some_and(|length| length.bytes().any(|digit| digit != b'0')))
    }
}

const fn bad_request(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::BadRequest, message)
}

const BAD_HOST: Refusal = bad_request("the host is invalid");

/// The most header fields of a head. The message of [`TOO_LONG`] has the same number.
const MAX_FIELDS: usize = 64;
