//! Which addresses may connect.

use alloc::collections::{BTreeMap, BTreeSet};
use core::{cmp::Reverse, net::IpAddr};

use ipnet::IpNet;

/// Which addresses may connect: ranges that are allowed, and ranges that are denied.
///
/// The most specific range that contains an address decides, whatever the order of the ranges. If
/// no range contains it, it is denied if there is any allowed range, and allowed otherwise. An IPv4
/// address that is mapped to IPv6 counts as the IPv4 address. A peer on a Unix socket has no
/// address and is allowed.
///
/// A check takes one look-up for each length of prefix that the ranges have, at most 33 for IPv4
/// and 129 for IPv6. The memory is in proportion to the number of ranges. The default has no range
/// and allows every address.
///
/// ```
/// use wirestate_core::admission::AccessList;
///
/// let mut access = AccessList::default();
/// access.allow("10.0.0.0/8".parse()?);
/// access.deny("10.1.0.0/16".parse()?);
/// access.allow("10.1.2.3/32".parse()?);
/// let allows = |address: &str| address.parse().map(|address| access.allows(address));
/// assert_eq!(
///     ["10.9.9.9", "10.1.9.9", "10.1.2.3", "192.0.2.1"].map(|address| allows(address).unwrap()),
///     [true, false, true, false]
/// );
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// Whether each range is allowed.
    ranges: BTreeMap<IpNet, bool>,
    /// The lengths of the ranges' prefixes, the longest first.
    prefixes: BTreeSet<Reverse<u8>>,
    has_allowed: bool,
}

impl AccessList {
    /// Allows the addresses of `range`, and denies those that no range contains. A range that is
    /// denied as well is denied.
    pub fn allow(&mut self, range: IpNet) {
        self.has_allowed = true;
        self.prefixes.insert(Reverse(range.prefix_len()));
        self.ranges.entry(range.trunc()).or_insert(true);
    }

    /// Denies the addresses of `range`.
    pub fn deny(&mut self, range: IpNet) {
        self.prefixes.insert(Reverse(range.prefix_len()));
        self.ranges.insert(range.trunc(), false);
    }

    /// Whether `address` may connect.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let range = |prefix: &Reverse<u8>| IpNet::new(address, prefix.0).ok();
        let mut ranges = self.prefixes.iter().filter_map(range);
        let decision = ranges.find_map(|range| self.ranges.get(&range.trunc()).copied());
        decision.unwrap_or(!self.has_allowed)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn list(allowed: &[&str], denied: &[&str]) -> AccessList {
        let mut list = AccessList::default();
        for range in allowed {
            list.allow(range.parse().unwrap());
        }
        for range in denied {
            list.deny(range.parse().unwrap());
        }
        list
    }

    #[test]
    fn without_an_allowed_range_only_denied_ranges_are_denied() {
        let list = list(&[], &["192.0.2.0/24", "2001:db8::/32"]);
        for (address, allows) in [
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.3.1", true),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
        ] {
            assert_eq!(list.allows(address.parse().unwrap()), allows, "{address}");
        }
        assert!(AccessList::default().allows("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn an_allowed_range_of_one_family_denies_all_of_the_other() {
        let list = list(&["0.0.0.0/0"], &[]);
        assert!(list.allows("192.0.2.1".parse().unwrap()));
        assert!(!list.allows("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn a_range_that_is_allowed_and_denied_is_denied() {
        let mut list = list(&["10.0.0.0/8"], &["10.0.0.0/8"]);
        list.allow("10.0.0.0/8".parse().unwrap());
        assert!(!list.allows("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        /// Against the definition: the containing range with the longest prefix.
        #[test]
        fn the_most_specific_range_decides(
            ranges in prop::collection::vec((0..4_u8, 0..4_u8, 24..=32_u8, any::<bool>()), 0..12),
            host in (0..4_u8, 0..4_u8),
        ) {
            let ranges: Vec<(IpNet, bool)> = ranges
                .into_iter()
                .map(|(c, d, prefix, is_allowed)| {
                    let range = IpNet::new([10, 0, c, d].into(), prefix).unwrap().trunc();
                    (range, is_allowed)
                })
                .collect();
            let mut list = AccessList::default();
            for &(range, is_allowed) in &ranges {
                if is_allowed { list.allow(range) } else { list.deny(range) }
            }
            let address = IpAddr::from([10, 0, host.0, host.1]);
            let containing = ranges.iter().filter(|(range, _)| range.contains(&address));
            let longest = containing.max_by_key(|&&(range, is_allowed)| {
                (range.prefix_len(), !is_allowed)
            });
            let has_allowed = ranges.iter().any(|&(_, is_allowed)| is_allowed);
            let expected = longest.map_or(!has_allowed, |&(_, is_allowed)| is_allowed);
            prop_assert_eq!(list.allows(address), expected);
        }
    }
}
