use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn cap(n: u64) -> Cap {
    Cap::new(n).expect("tests use caps above 0")
}

fn rules() -> PermitRules {
    PermitRules { connections: cap(2), overrides: Vec::new(), rate: cap(1), burst: cap(4), node: cap(100) }
}

fn permits(rules: PermitRules) -> Arc<IpPermits> {
    Arc::new(IpPermits::new(rules))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

const FULL: PermitRefusal = PermitRefusal::IpConnections { retry_after: CONNECTIONS_RETRY };

#[test]
fn an_address_holds_its_cap_and_a_dropped_permit_gives_its_place_back() {
    let now = Instant::now();
    let permits = permits(rules());
    let first = permits.acquire(ip("192.0.2.1"), now).unwrap();
    let _second = permits.acquire(ip("192.0.2.1"), now).unwrap();
    assert_eq!(permits.acquire(ip("192.0.2.1"), now).unwrap_err(), FULL);
    let _other = permits.acquire(ip("192.0.2.2"), now).unwrap();
    assert_eq!(permits.connections(), 3);
    drop(first);
    assert_eq!(permits.connections(), 2);
    assert!(permits.acquire(ip("192.0.2.1"), now).is_ok());
}

#[test]
fn a_burst_beyond_the_rate_is_told_when_to_come_back() {
    let now = Instant::now();
    let permits = permits(rules());
    for _ in 0..4 {
        drop(permits.acquire(ip("192.0.2.1"), now).unwrap());
    }
    let refused = permits.acquire(ip("192.0.2.1"), now).unwrap_err();
    assert_eq!(refused, PermitRefusal::IpRate { retry_after: Duration::from_secs(1) });
    assert!(permits.acquire(ip("192.0.2.1"), now + refused.retry_after()).is_ok());
}

#[test]
fn a_full_node_refuses_and_the_refusal_costs_the_address_nothing() {
    let now = Instant::now();
    let permits = permits(PermitRules { node: cap(1), ..rules() });
    let only = permits.acquire(ip("192.0.2.1"), now).unwrap();
    for _ in 0..10 {
        for from in ["192.0.2.1", "192.0.2.2"] {
            let refused = permits.acquire(ip(from), now).unwrap_err();
            assert_eq!(refused, PermitRefusal::NodeFull { retry_after: NODE_RETRY });
        }
    }
    assert_eq!(permits.tracked(), 1);
    drop(only);
    for _ in 0..3 {
        drop(permits.acquire(ip("192.0.2.1"), now).unwrap());
    }
    assert!(permits.acquire(ip("192.0.2.1"), now).is_err());
}

#[test]
fn a_v6_household_is_one_address_and_a_mapped_v4_is_that_v4() {
    let now = Instant::now();
    let permits = permits(rules());
    let household = permits.acquire(ip("2001:db8:1:2::1"), now).unwrap();
    let _b = permits.acquire(ip("2001:db8:1:2:ffff::9"), now).unwrap();
    assert_eq!(permits.acquire(ip("2001:db8:1:2:1::"), now).unwrap_err(), FULL);
    assert!(permits.acquire(ip("2001:db8:1:3::1"), now).is_ok());
    let mapped = permits.acquire(ip("::ffff:192.0.2.1"), now).unwrap();
    let _plain = permits.acquire(ip("192.0.2.1"), now).unwrap();
    assert_eq!(mapped.ip(), ip("192.0.2.1"));
    assert_eq!((mapped.group(), household.group()), ("192.0.2.1".to_owned(), "2001:db8:1:2::/64".to_owned()));
    assert_eq!(permits.acquire(ip("192.0.2.1"), now).unwrap_err(), FULL);
}

#[test]
fn the_longest_matching_override_replaces_the_connection_cap() {
    let now = Instant::now();
    let overrides = [("10.0.0.0/8", cap(1)), ("10.1.0.0/16", cap(3)), ("10.1.1.0/24", Cap::UNLIMITED)];
    let overrides = overrides.map(|(net, cap)| (net.parse().unwrap(), cap)).to_vec();
    let permits = permits(PermitRules { overrides, burst: cap(50), ..rules() });
    let holds = |from: &str| {
        let held: Vec<_> = (0..50).map_while(|_| permits.acquire(ip(from), now).ok()).collect();
        held.len()
    };
    assert_eq!([holds("10.9.0.1"), holds("10.1.9.1"), holds("10.1.1.1"), holds("11.0.0.1")], [1, 3, 50, 2]);
    assert_eq!(holds("::ffff:10.9.0.2"), 1);
}

#[test]
fn a_sweep_forgets_who_left_and_paid_and_returns_the_memory() {
    let now = Instant::now();
    let permits = permits(PermitRules { node: Cap::UNLIMITED, ..rules() });
    let stays = permits.acquire(ip("192.0.2.1"), now).unwrap();
    for n in 0..20_000u32 {
        drop(permits.acquire(IpAddr::V4((0x0a00_0000 + n).into()), now).unwrap());
    }
    permits.sweep(now);
    assert_eq!(permits.tracked(), 20_001);
    permits.sweep(now + Duration::from_secs(1));
    assert_eq!((permits.tracked(), permits.addresses.len()), (1, 1));
    assert!(permits.addresses.capacity() < 4_096, "{}", permits.addresses.capacity());
    drop(stays);
    permits.sweep(now + Duration::from_secs(2));
    assert_eq!((permits.tracked(), permits.connections()), (0, 0));
}

#[test]
fn a_full_map_evicts_the_idle_and_otherwise_refuses_only_new_addresses() {
    let now = Instant::now();
    let permits = Arc::new(IpPermits::new(rules()).tracking_at_most(2));
    let held = permits.acquire(ip("192.0.2.1"), now).unwrap();
    drop(permits.acquire(ip("192.0.2.2"), now).unwrap());
    let refused = PermitRefusal::IpRate { retry_after: EVICTION_INTERVAL };
    assert_eq!(permits.acquire(ip("192.0.2.3"), now).unwrap_err(), refused);
    assert!(permits.acquire(ip("192.0.2.1"), now).is_ok());
    let later = now + Duration::from_secs(2);
    assert!(permits.acquire(ip("192.0.2.3"), later).is_ok());
    assert_eq!(permits.tracked(), 2);
    drop(held);
}

#[test]
fn threads_never_share_the_last_place() {
    let now = Instant::now();
    let rules =
        PermitRules { connections: cap(7), rate: cap(1), burst: Cap::UNLIMITED, node: cap(20), ..rules() };
    let permits = permits(rules);
    std::thread::scope(|scope| {
        for seed in 0..4u8 {
            let permits = &permits;
            scope.spawn(move || {
                for round in 0..2_000u32 {
                    let from = |n: u32| IpAddr::from([192, 0, 2, u8::try_from(n % 4).unwrap()]);
                    let held: Vec<_> = (0..9)
                        .filter_map(|n| permits.acquire(from(n + round + u32::from(seed)), now).ok())
                        .collect();
                    assert!(permits.connections() <= 20);
                    for address in &permits.addresses {
                        assert!(address.connections <= 7);
                    }
                    if round % 100 == 0 {
                        permits.sweep(now + Duration::from_secs(60));
                    }
                    drop(held);
                }
            });
        }
    });
    assert_eq!(permits.connections(), 0);
    permits.sweep(now + Duration::from_secs(100_000));
    assert_eq!((permits.tracked(), permits.addresses.len()), (0, 0));
}

proptest! {
        /// Against a plain count: the caps hold at every step, and nothing leaks.
        #[test]
        fn the_counts_match_a_simple_model(
            steps in prop::collection::vec((0u8..5, 0u8..6, any::<prop::sample::Index>(), 0u64..900), 1..150),
        ) {
            let mut now = Instant::now();
            let permits = permits(PermitRules { connections: cap(3), node: cap(8), ..rules() });
            let mut held: Vec<IpPermit> = Vec::new();
            for (action, host, which, gap) in steps {
                now += Duration::from_millis(gap);
                let count = |held: &[IpPermit]| {
                    let mut count = HashMap::new();
                    for permit in held {
 *count.entry(permit.ip()).or_insert(0usize) += 1;
}
                    count
                };
                match action {
                    0..=2 => {
                        let from = IpAddr::from([192, 0, 2, host]);
                        let used = count(&held).get(&from).copied().unwrap_or(0);
                        match permits.acquire(from, now) {
                            Ok(permit) => {
                                prop_assert!(used < 3 && held.len() < 8);
                                held.push(permit);
                            }
                            Err(PermitRefusal::IpConnections { .. }) => prop_assert_eq!(used, 3),
                            Err(PermitRefusal::NodeFull { .. }) => prop_assert_eq!(held.len(), 8),
                            Err(PermitRefusal::IpRate { retry_after }) => {
                                prop_assert!(retry_after <= Duration::from_secs(1));
                            }
                        }
                    }
                    3 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    _ => permits.sweep(now),
                }
                prop_assert_eq!(permits.connections(), held.len() as u64);
                prop_assert_eq!(permits.tracked(), permits.addresses.len());
                prop_assert!(permits.tracked() >= count(&held).len());
            }
            held.clear();
            permits.sweep(now + Duration::from_secs(10));
            prop_assert_eq!((permits.connections(), permits.tracked()), (0, 0));
        }
    }
