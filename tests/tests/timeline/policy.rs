//! The content security policy of the page.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;

use crate::samples::{self, page};

/// On a failure, copy the hash from the message to the policy.
#[test]
fn the_policy_allows_exactly_the_style_and_the_script() {
    let page = page(&samples::hostile());
    let policy = between(&page, "Content-Security-Policy\" content=\"", "\"");
    for kind in ["script", "style"] {
        let inline = between(&page, &format!("<{kind}>"), &format!("</{kind}>"));
        let hash = BASE64.encode(digest(&SHA256, inline.as_bytes()).as_ref());
        let allowed = format!("{kind}-src 'sha256-{hash}'; ");
        assert!(policy.contains(&allowed), "the {kind} needs {allowed}");
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    let data = between(&page, "id=\"data\">", "</script>");
    assert!(data.ends_with("]]") && !data.contains('<'), "{data}");
    for outside in ["http:", "https:", " src=", " style=", "@import", "url("] {
        assert!(!page.replace(data, "").contains(outside), "{outside}");
    }
}

/// The text between the only `before` and the next `after`.
fn between<'a>(page: &'a str, before: &str, after: &str) -> &'a str {
    let [_, rest] = page.split(before).collect::<Vec<_>>()[..] else {
        panic!("the page has no {before}, or several");
    };
    rest.split(after).next().unwrap()
}
