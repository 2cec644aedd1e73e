//! Finds the page that a request is for.

use super::{
    http::{AllowedHosts, Refusal, RequestHead, StatusCode, negotiate},
    metrics::Exposition,
    pages::{ListFormat, Page},
};

/// A request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The page, or why the request is refused.
    pub(super) page: Result<Page, Refusal>,
    /// Further requests may follow.
    pub(super) keep_alive: bool,
}

impl Request {
    /// The request with this head.
    ///
    /// # Errors
    /// It has content, which is not read, and so does not say where the next request begins.
    pub(super) fn new(head: &RequestHead<'_>, hosts: &AllowedHosts) -> Result<Self, Refusal> {
        let page = find(head, hosts);
        if page.is_ok() && head.has_content {
            return Err(CONTENT);
        }
        Ok(Self { page, keep_alive: head.keep_alive })
    }
}

fn find(head: &RequestHead<'_>, hosts: &AllowedHosts) -> Result<Page, Refusal> {
    if head.host.is_some_and(|host| !hosts.include(host)) {
        return Err(Refusal::new(
            StatusCode::MisdirectedRequest,
            "this server does not answer for that host",
        ));
    }
    if !matches!(head.method, "GET" | "HEAD") {
        return Err(Refusal::new(StatusCode::MethodNotAllowed, "the methods are GET and HEAD"));
    }
    page(head)
}

fn page(head: &RequestHead<'_>) -> Result<Page, Refusal> {
    let accept = || head.accept.iter().copied();
    Ok(match head.path {
        "/" => Page::Overview,
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        "/metrics" => Page::Metrics(negotiate(
            accept(),
            &[
                ("text/plain", Exposition::Text),
                ("application/openmetrics-text", Exposition::OpenMetrics),
            ],
        )),
        "/connections" => {
            let format = head.query.split('&').find_map(|pair| pair.strip_prefix("format="));
            Page::Connections(match format {
                Some("text") => ListFormat::Text,
                Some("json") => ListFormat::Json,
                Some("html") => ListFormat::Html,
                Some(_) => {
                    let message = "the formats are text, json and html";
                    return Err(Refusal::new(StatusCode::NotFound, message));
                }
                None => negotiate(
                    accept(),
                    &[
                        ("text/plain", ListFormat::Text),
                        ("text/html", ListFormat::Html),
                        ("application/json", ListFormat::Json),
                    ],
                ),
            })
        }
        _ => {
            let message = "the pages are /, /healthz, /readyz, /metrics and /connections";
            return Err(Refusal::new(StatusCode::NotFound, message));
        }
    })
}

const CONTENT: Refusal =
    Refusal::new(StatusCode::ContentTooLarge, "a request must not have content");
