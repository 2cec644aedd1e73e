//! Subjects, and who has subscribed to which.

use std::collections::{BTreeMap, BTreeSet};

/// A subscription: the connection and the id that it has chosen.
pub(super) type Subscriber = (u64, String);

/// All subscriptions of a cluster, by pattern.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_pattern: BTreeMap<String, BTreeSet<Subscriber>>,
    /// The patterns with `*` before the last token. They are tried one by one.
    others: BTreeSet<String>,
}

impl Subscriptions {
    pub(super) fn insert(&mut self, pattern: &str, subscriber: Subscriber) {
        if is_indexed(pattern) {
            self.by_pattern.entry(pattern.to_owned()).or_default().insert(subscriber);
        } else {
            self.others.insert(pattern.to_owned());
            self.by_pattern.entry(pattern.to_owned()).or_default().insert(subscriber);
        }
    }

    pub(super) fn remove(&mut self, pattern: &str, subscriber: &Subscriber) {
        let Some(subscribers) = self.by_pattern.get_mut(pattern) else { return };
        subscribers.remove(subscriber);
        if subscribers.is_empty() {
            self.by_pattern.remove(pattern);
            self.others.remove(pattern);
        }
    }

    /// Those whose pattern matches `subject`, in the order of their connections.
    pub(super) fn matching(&self, subject: &str) -> BTreeSet<&Subscriber> {
        self.patterns(subject).into_iter().flatten().collect()
    }

    pub(super) fn has_interest(&self, subject: &str) -> bool {
        !self.patterns(subject).is_empty()
    }

    fn patterns(&self, subject: &str) -> Vec<&BTreeSet<Subscriber>> {
        let parent =
            subject.rsplit_once('.').map_or(String::new(), |(parent, _)| format!("{parent}."));
        let ends = subject.match_indices('.').map(|(index, _)| index + 1);
        let indexed = [subject.to_owned(), format!("{parent}*"), ">".to_owned()]
            .into_iter()
            .chain(ends.map(|end| format!("{}>", &subject[..end])));
        let indexed = indexed.filter_map(|pattern| self.by_pattern.get(&pattern));
        let others = self.others.iter().filter(|pattern| matches(pattern, subject));
        indexed.chain(others.filter_map(|pattern| self.by_pattern.get(pattern))).collect()
    }
}

/// Whether a lookup finds the pattern: its only wildcard is its last token.
fn is_indexed(pattern: &str) -> bool {
    let head = pattern.rsplit_once('.').map_or("", |(head, _)| head);
    head.split('.').all(|token| token != "*")
}

/// Whether `pattern` matches `subject`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            (_, Some(_) | None) => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether some subject matches both patterns.
pub(super) fn overlap(one: &str, two: &str) -> bool {
    let (mut one, mut two) = (one.split('.'), two.split('.'));
    loop {
        match (one.next(), two.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(one), Some(two)) if one == two => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

#[test]
fn patterns_match_subjects() {
    for (pattern, subject, expected) in [
        ("a.b", "a.b", true),
        ("a.b", "a.b.c", false),
        ("a.*", "a.b", true),
        ("a.*", "a", false),
        ("a.*", "a.b.c", false),
        ("*", "a", true),
        (">", "a.b", true),
        ("a.>", "a.b.c", true),
        ("a.>", "a", false),
        ("*.b", "a.b", true),
        ("*.b", "a.c", false),
    ] {
        assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        let mut all = Subscriptions::default();
        all.insert(pattern, (1, "1".into()));
        assert_eq!(all.has_interest(subject), expected, "{pattern} {subject}");
        all.remove(pattern, &(1, "1".into()));
        assert!(!all.has_interest(subject));
    }
    assert!(overlap("a.>", "a.b") && overlap("*.b", "a.*") && !overlap("a", "b"));
}
