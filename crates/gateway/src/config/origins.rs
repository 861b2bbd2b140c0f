//! Which browser origins may connect: exact names, no patterns, never `null`.

use super::Origins;

/// The word for every origin.
const ANY: &str = "*";
/// The word for the origin that the request's own `Host` names.
pub(super) const SAME_HOST: &str = "same-host";

impl Origins {
    /// Reads the list of the setting `origins`.
    pub(super) fn parse(items: &[String]) -> Result<Self, String> {
        let mut origins = Self { list: Vec::new(), localhost: false, same_host: false };
        for item in items {
            match item.as_str() {
                SAME_HOST => origins.same_host = true,
                ANY => origins.list.push(ANY.to_owned()),
                _ => origins.list.push(normal(item).ok_or(
                    "origins such as https://app.example (scheme and host, no path), \"same-host\", or \"*\" for every one",
                )?),
            }
        }
        Ok(origins)
    }

    /// Whether a page of this origin may connect. `host` is the request's `Host` header.
    ///
    /// `null`, which sandboxed and local pages send, is never allowed: it names nobody.
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let Some(origin) = normal(origin) else { return false };
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        if self.list.iter().any(|allowed| allowed == ANY || *allowed == origin) {
            return true;
        }
        let local = matches!(without_port(authority), "localhost" | "127.0.0.1" | "[::1]");
        if self.localhost && local && matches!(scheme, "http" | "https") {
            return true;
        }
        self.same_host
            && host.and_then(|host| normal(&format!("{scheme}://{host}"))).is_some_and(|own| own == origin)
    }
}

/// `scheme://host[:port]` in lower case and without the scheme's own port; none if it is anything else.
fn normal(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let host = without_port(authority);
    let port = authority[host.len()..].strip_prefix(':');
    let host_is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let port_is_valid = match port {
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => authority.len() == host.len(),
    };
    if !scheme_is_valid || !host_is_valid || !port_is_valid {
        return None;
    }
    let default_port = match scheme {
        "http" => Some("80"),
        "https" => Some("443"),
        _ => None,
    };
    match port.filter(|port| Some(*port) != default_port) {
        Some(port) => Some(format!("{scheme}://{host}:{port}")),
        None => Some(format!("{scheme}://{host}")),
    }
}

/// The host of `host[:port]`, brackets included.
fn without_port(authority: &str) -> &str {
    match authority.find(']') {
        Some(end) => &authority[..=end],
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(items: &[&str]) -> Origins {
        Origins::parse(&items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_listed_origin_passes_in_any_case_and_nothing_like_it() {
        let some = origins(&["https://App.example", "http://app.example:8080"]);
        assert!(some.allow("https://app.example", None));
        assert!(some.allow("HTTPS://APP.EXAMPLE:443", None));
        assert!(some.allow("http://app.example:8080", None));
        for bad in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "https://evil-app.example",
            "https://app.example/",
            "https://app.example@evil.example",
            "null",
            "",
            "://",
            "https://",
            "https://app.example:",
            "https://app.example:99999",
            "https://[::1",
        ] {
            assert!(!some.allow(bad, Some("app.example")), "{bad}");
        }
    }

    #[test]
    fn same_host_compares_with_the_request_itself() {
        let same = origins(&["same-host"]);
        assert!(same.allow("https://a.example", Some("A.example")));
        assert!(same.allow("https://a.example", Some("a.example:443")));
        assert!(same.allow("http://127.0.0.1:8080", Some("127.0.0.1:8080")));
        assert!(!same.allow("https://a.example", Some("b.example")));
        assert!(!same.allow("https://a.example:1", Some("a.example")));
        assert!(!same.allow("https://a.example", None));
        assert!(!origins(&[]).allow("https://a.example", Some("a.example")));
    }

    #[test]
    fn localhost_is_for_development() {
        let dev = Origins { localhost: true, ..origins(&[]) };
        for good in ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:8080"] {
            assert!(dev.allow(good, None), "{good}");
            assert!(!origins(&[]).allow(good, None), "{good}");
        }
        for bad in ["http://localhost.evil.example", "http://127.0.0.1.evil.example", "file://localhost"] {
            assert!(!dev.allow(bad, None), "{bad}");
        }
    }

    #[test]
    fn a_star_allows_every_origin_that_has_a_name() {
        let any = origins(&["*"]);
        assert!(any.allow("https://whoever.example", None));
        assert!(!any.allow("null", None));
    }

    #[test]
    fn what_is_no_origin_is_refused_when_loading() {
        for bad in ["app.example", "https://app.example/path", "https://*.example", "null", "https://a b"] {
            assert!(Origins::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
