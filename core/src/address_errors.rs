//! The error of a host name whose addresses have failed.

use std::{error::Error, fmt, io, net::SocketAddr, vec, vec::Vec};

/// Why the addresses of a host name have failed. Its text names each of them, up to four.
///
/// A [`Runtime`](crate::runtime::Runtime) collects the errors of the addresses that it tries, and
/// returns them as one [`io::Error`].
///
/// ```
/// use std::io;
/// use wirestate_core::runtime::AddressErrors;
///
/// let mut errors = AddressErrors::default();
/// for address in ["[::1]:7", "127.0.0.1:7"] {
///     errors.push(address.parse()?, io::ErrorKind::ConnectionRefused.into());
/// }
/// let error = errors.into_error("localhost:7");
/// assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
/// assert_eq!(error.to_string(), "[::1]:7: connection refused; 127.0.0.1:7: connection refused");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct AddressErrors {
    errors: Vec<(SocketAddr, io::Error)>,
}

impl AddressErrors {
    /// Adds the error of `address`.
    pub fn push(&mut self, address: SocketAddr, error: io::Error) {
        self.errors.push((address, error));
    }

    /// The error of one address.
    pub(crate) fn one(address: SocketAddr, error: io::Error) -> Self {
        Self { errors: vec![(address, error)] }
    }

    /// The kind of the last error.
    pub(crate) fn kind(&self) -> Option<io::ErrorKind> {
        self.errors.last().map(|(_, error)| error.kind())
    }

    /// The error of `name`, of the kind of the last error. If `name` is the one address that has
    /// failed, it is that error itself, because the caller names the address. Without an error,
    /// the name has no address.
    pub fn into_error(mut self, name: &str) -> io::Error {
        match self.errors.pop() {
            None => io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
            Some((address, error)) if self.errors.is_empty() && name.parse() == Ok(address) => {
                error
            }
            Some((address, error)) => {
                let kind = error.kind();
                self.errors.push((address, error));
                io::Error::new(kind, self)
            }
        }
    }

    /// The number of the operating system's error, which is the last one if `error` was made by
    /// [`into_error`](Self::into_error).
    pub(crate) fn raw_os_error(error: &io::Error) -> Option<i32> {
        let own = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        let last = own.and_then(|own| own.errors.last());
        last.map_or(error, |(_, last)| last).raw_os_error()
    }
}

impl fmt::Display for AddressErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (address, error) in self.errors.iter().take(MAX_NAMED) {
            write!(f, "{separator}{address}: {error}")?;
            separator = "; ";
        }
        match self.errors.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "; and {more} more addresses"),
        }
    }
}

impl Error for AddressErrors {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.errors.last().map(|(_, error)| error as &(dyn Error + 'static))
    }
}

/// How many addresses the text names.
const MAX_NAMED: usize = 4;

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    fn errors(count: u8) -> AddressErrors {
        let mut errors = AddressErrors::default();
        for last in 1..=count {
            errors.push(([127, 0, 0, last], 7).into(), io::Error::from_raw_os_error(24));
        }
        errors
    }

    #[test]
    fn the_addresses_of_a_name_are_named_and_a_single_address_is_not_repeated() {
        let one = errors(1).into_error("127.0.0.1:7");
        assert_eq!(one.raw_os_error(), Some(24));
        let named = errors(1).into_error("host:7");
        assert!(named.to_string().starts_with("127.0.0.1:7: "), "{named}");
        let many = errors(6).into_error("host:7").to_string();
        assert!(many.contains("; 127.0.0.4:7: "), "{many}");
        assert!(many.ends_with("; and 2 more addresses") && !many.contains(".5:7"), "{many}");
        let none = AddressErrors::default().into_error("host:7");
        assert_eq!(none.to_string(), "the name has no address");
    }

    #[test]
    fn the_number_of_the_last_error_is_kept() {
        for (count, name) in [(1, "127.0.0.1:7"), (1, "host:7"), (6, "host:7")] {
            let error = errors(count).into_error(name);
            assert_eq!(AddressErrors::raw_os_error(&error), Some(24), "{name}");
        }
        let other = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(AddressErrors::raw_os_error(&other), None);
    }
}
