//! Content negotiation by the `Accept` field (RFC 9110, section 12.5.1).

/// Selects the offer with the highest quality in `accept`, the values of all `Accept` fields. Of
/// equals, the first one in `accept` wins. `offers` are media types with their results. The first
/// offer is the default if `accept` matches none.
pub(in crate::status) fn negotiate<'a, T: Copy>(
    accept: impl Iterator<Item = &'a str>,
    offers: &[(&str, T)],
) -> T {
    let mut best = (0, offers[0].1);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let wanted = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, permille);
        let matches = |offer: &str| {
            let (kind, _) = offer.split_once('/').unwrap_or_default();
            wanted == "*/*"
                || wanted.eq_ignore_ascii_case(offer)
                || wanted.strip_suffix("/*").is_some_and(|wanted| wanted.eq_ignore_ascii_case(kind))
        };
        let offer = offers.iter().find(|(offer, _)| matches(offer));
        if let Some((_, value)) = offer
            && quality > best.0
        {
            best = (quality, *value);
        }
    }
    best.1
}

/// A quality (`0` to `1`, with up to three decimals) in thousandths. An invalid one counts as 0.
fn permille(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    match (whole, fraction.len()) {
        ("1", _) => 1000,
        ("0", 0..=3) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_that_the_client_ranks_highest_wins() {
        let offers = [("text/plain", "table"), ("text/html", "page"), ("application/json", "json")];
        let firefox = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            ("*/*", "table"), // curl
            (firefox, "page"),
            ("application/json", "json"),
            ("application/json, text/plain, */*", "json"),
            ("text/*;q=0.5, application/*;q=0.7", "json"),
            ("text/html;q=0, */*;q=0.1", "table"),
            ("text/plain;q=0.9, text/html; level=1 ; q=0.95", "page"),
            ("image/png", "table"),
            ("TEXT/HTML", "page"),
            (";;;,,,q=7,/*", "table"),
            ("", "table"),
        ] {
            assert_eq!(negotiate([accept].into_iter(), &offers), expected, "{accept}");
        }
        assert_eq!(negotiate([].into_iter(), &offers), "table");
        let two = ["text/plain;q=0.1", "text/html"];
        assert_eq!(negotiate(two.into_iter(), &offers), "page", "of several fields");
    }
}
