//! The pages for browsers: they are selected by the request, and their policy allows them.

use wirestate_tls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::alone::{get, server};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";

#[test]
fn a_browser_gets_a_page_and_a_program_gets_json() {
    let server = server();
    for (path, fields, expected) in [
        ("/", "", "application/json"),
        ("/", "Accept: */*\r\n", "application/json"),
        ("/", BROWSER, "text/html; charset=utf-8"),
        ("/?format=html", "", "text/html; charset=utf-8"),
        ("/?format=json", BROWSER, "application/json"),
        ("/connections", BROWSER, "text/html; charset=utf-8"),
        ("/connections?format=text", BROWSER, "text/plain; charset=utf-8"),
    ] {
        let (head, _) = get(&server, path, fields);
        let field = format!("\r\nContent-Type: {expected}\r\n");
        assert!(head.contains(&field), "{path} {fields}: {head}");
    }
    for path in ["/?format=text", "/?format=xml", "/connections?format="] {
        assert!(get(&server, path, "").0.starts_with("HTTP/1.1 404 "), "{path}");
    }
}

/// On a failure, copy the hash from the message to the policy.
#[test]
fn the_policy_allows_exactly_the_style_and_the_script_of_a_page() {
    let server = server();
    for path in ["/", "/connections"] {
        let (head, page) = get(&server, path, BROWSER);
        let policy = head.split("\r\nContent-Security-Policy: ").nth(1).unwrap();
        let policy = policy.split("\r\n").next().unwrap();
        for kind in ["script", "style"] {
            let [_, inline] = page.split(&format!("<{kind}>")).collect::<Vec<_>>()[..] else {
                panic!("{path} has no {kind}, or several");
            };
            let inline = inline.split(&format!("</{kind}>")).next().unwrap();
            let directive = policy.split("; ").find(|directive| directive.starts_with(kind));
            let hash = format!("'sha256-{}'", base64(&sha256(inline.as_bytes())));
            assert!(directive.unwrap().contains(&hash), "the {kind} of {path} has {hash}");
        }
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"));
        for outside in ["http:", "https:", " src=", " style=", "@import", "url("] {
            let own = page.replace("http://www.w3.org/", "");
            assert!(!own.contains(outside), "{path} has {outside}");
        }
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    suite.common.hash_provider.hash(bytes).as_ref().to_vec()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(*chunk.get(i).unwrap_or(&0)));
        let digit = |i: usize| char::from(DIGITS[bits >> (18 - 6 * i) & 63]);
        let digits = chunk.len() + 1;
        text.extend((0..4).map(|i| if i < digits { digit(i) } else { '=' }));
    }
    text
}

#[test]
fn base64_is_that_of_the_standard() {
    let all = ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes()));
    assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
}
