//! From text to values and back: durations, sizes, limits, networks, origins. Knows no key and no source.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use roomcast_core::limits::Cap;

const DURATION: &str = "a duration such as 250ms, 60s, 10m, 1h or 2d";
const NUMBER: &str = "a whole number from 1, or \"unlimited\"";
const BYTES: &str = "bytes as a whole number from 1, such as 65536, 64KiB or 1MiB, or \"unlimited\"";
const ZERO: &str = "a whole number from 1: a limit of 0 is refused; \"unlimited\" is the word";
/// Longer is surely a slip, and far from where adding it to a clock overflows.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Largest first, so that the shortest text is found.
const DURATION_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const BYTE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if !number.is_empty() && unit.is_empty() {
        return Err(format!("{DURATION}; a bare number has no unit: write {number}s or {number}ms"));
    }
    let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| factor);
    let millis = factor.zip(number.parse::<u64>().ok()).and_then(|(factor, n)| n.checked_mul(*factor));
    match millis.map(Duration::from_millis) {
        Some(duration) if duration > LONGEST => Err(format!("{DURATION}, at most 366d")),
        Some(duration) => Ok(duration),
        None => Err(DURATION.to_owned()),
    }
}

/// The shortest text that [`duration`] reads as this.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, factor) =
        DURATION_UNITS.iter().find(|(_, factor)| millis.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
    // 60s, not 1m: short times read best in the unit in which they are compared.
    if *unit == "m" && millis < 600_000 {
        return format!("{}s", millis / 1_000);
    }
    format!("{}{unit}", millis / factor)
}

/// A limit: a number from 1 or `unlimited`.
pub(super) fn cap(text: &str) -> Result<Cap, String> {
    if text == "unlimited" {
        return Ok(Cap::UNLIMITED);
    }
    let number = text.parse().map_err(|_| NUMBER.to_owned())?;
    Cap::new(number).ok_or_else(|| ZERO.to_owned())
}

/// A limit in bytes, plain or with a binary unit.
pub(super) fn byte_cap(text: &str) -> Result<Cap, String> {
    for (unit, factor) in BYTE_UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor));
            return Cap::new(bytes.ok_or(BYTES)?).ok_or_else(|| ZERO.to_owned());
        }
    }
    cap(text).map_err(|expected| if expected == NUMBER { BYTES.to_owned() } else { expected })
}

/// The shortest text that [`byte_cap`] reads as this many bytes.
pub(super) fn show_bytes(bytes: u64) -> String {
    match BYTE_UNITS.iter().find(|(_, factor)| bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// A network as CIDR, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .ok_or_else(|| "networks such as 10.0.0.0/8 or 2001:db8::/32, or single addresses".to_owned())
}

/// `network=limit`.
pub(super) fn ip_override(text: &str) -> Result<(IpNet, Cap), String> {
    let (range, limit) = text.split_once('=').ok_or("entries of network=limit such as 203.0.113.0/24=500")?;
    Ok((network(range.trim())?, cap(limit.trim())?))
}

/// The items of a comma-separated list; an empty text is an empty list.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [("250ms", 250), ("60s", 60_000), ("10m", 600_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert!(duration("60").unwrap_err().contains("write 60s"));
        for bad in
            ["", "s", "1.5s", "-1s", "1 s", "1S", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("367d").unwrap_err().contains("at most"));
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["0s", "250ms", "1s", "25s", "60s", "90s", "10m", "1h", "2d"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_limit_of_zero_is_told_the_word() {
        assert_eq!(cap("unlimited"), Ok(Cap::UNLIMITED));
        assert_eq!(cap("7").unwrap().get(), Some(7));
        assert!(cap("0").unwrap_err().contains("\"unlimited\" is the word"));
        assert!(byte_cap("0KiB").unwrap_err().contains("\"unlimited\" is the word"));
        for bad in ["", "-1", "1.5", "Unlimited", "many", "1KiB"] {
            assert!(cap(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(byte_cap("64KiB").unwrap().get(), Some(65_536));
        assert_eq!(byte_cap("1MiB").unwrap().get(), Some(1 << 20));
        assert_eq!(byte_cap("65536").unwrap().get(), Some(65_536));
        for bad in ["64kb", "KiB", "1 KiB", "99999999999999GiB"] {
            assert!(byte_cap(bad).unwrap_err().contains("KiB"), "{bad}");
        }
        assert_eq!(show_bytes(65_536), "64KiB");
        assert_eq!(show_bytes(1_000), "1000");
    }

    #[test]
    fn networks_are_ranges_or_addresses() {
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert!(network("10.0.0.0/33").is_err());
        let (range, limit) = ip_override("203.0.113.0/24 = 500").unwrap();
        assert_eq!((range.to_string().as_str(), limit.get()), ("203.0.113.0/24", Some(500)));
        assert!(ip_override("203.0.113.0/24=0").unwrap_err().contains("unlimited"));
        assert!(ip_override("203.0.113.0/24").is_err());
    }
}
